"""What test-time augmentation would do for the organ networks, which are not trained on flipped patches.

    python -m tests.bench.organ_views sepnet --checkpoint sepnet/weights/openkbp.pt --prepared-dir PREP --cases 10 \
        --output-dir OUT

Real or phantom test cases of test.py. For each flip (z: head to foot, y: front to back; never x, which would turn left
organs into right ones) the prediction is the mean over the patch and its flip. Prints the Dice of the organs drawn, per
case, paired with that of the network alone (95 % interval, bootstrap over cases), and the CPU time over its own.
"""
import argparse
import importlib
import time
from dataclasses import replace
from pathlib import Path
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from shared_data.metrics import bootstrap_interval, mean
from shared_results.views import FlipTurn, mean_of_views

PROJECTS = {"sepnet": "sepnet", "focusnet": "focusnet_v2"}
FLIPS = {"network alone": [FlipTurn()], "and flipped along z": [FlipTurn(), FlipTurn((0,))],
         "and flipped along y": [FlipTurn(), FlipTurn((1,))]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=PROJECTS)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--prepared-dir", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--output-dir", type=Path, required=True)
    given = parser.parse_args()
    package = PROJECTS[given.project]
    test, config = (importlib.import_module(f"{package}.{name}") for name in ("test", "config"))
    options = test.Options(checkpoint=(given.checkpoint,), prepared_dir=given.prepared_dir, split="test", device="cpu",
                           output_dir=given.output_dir, **({"window_step": 8} if package == "sepnet" else {}))
    loaded = test.load(options)
    if package == "sepnet":
        cases = test.case_folders(replace(loaded.config, prepared_dir=given.prepared_dir), "test")[:given.cases]
        score, networks = test.score_patient, loaded.networks
    else:
        cases, score, networks = test.cases_of(loaded[1], "test")[:given.cases], test.score_case, loaded[0]
    plain, kept, took = networks[0], {}, {}
    for name, views in FLIPS.items():
        networks[0] = flipped(plain, views, package == "sepnet")
        start = time.process_time()
        rows = [score(case, loaded, options)[0] for case in cases]
        took[name] = time.process_time() - start
        kept[name] = np.array([mean([row["dice"] for row in organs if row["reference_ml"]]) for organs in rows])
    alone = next(iter(kept))
    print(f"{config.METHOD}, {len(cases)} cases\n\n| | mean Dice | gain | time |\n|---|---|---|---|")
    for name, dice in kept.items():
        low, high = bootstrap_interval(dice - kept[alone])
        print(f"| {name} | {dice.mean():.3f} | {np.mean(dice - kept[alone]):+.3f} ({low:+.3f} to {high:+.3f}) | "
              f"{took[name] / took[alone]:.1f} |")


def flipped(network: Callable[..., Any], views: list[FlipTurn], probabilities: bool) -> Callable[..., Any]:
    """A network of (B, 1, Z, Y, X) for the mean probability over the views, which it gives as it gives its own:
    probabilities, or logits."""
    if len(views) == 1:
        return network

    def averaged(patch: torch.Tensor) -> torch.Tensor:
        maps = network if probabilities else lambda copy: network(copy).softmax(1)
        total = mean_of_views(maps, patch, views, torch, (2, 3))
        return total if probabilities else total.clamp_min(1e-12).log()
    return averaged


if __name__ == "__main__":
    main()
