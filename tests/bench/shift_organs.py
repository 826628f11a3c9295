"""Weights that mark their organs as large as clinicians draw them: shift the logits of organs by what validation
patients show, and write a checkpoint with the shifts in the last layer's bias.

    python -m tests.bench.shift_organs sepnet --checkpoint best.pt --prepared-dir PREP --output shifted.pt

An organ's shift is the one with the highest mean Dice over the validation patients in whom it was drawn, on the
network's grid, the other organs shifted, too; it is kept only if the 95 % interval of the paired gain is above 0
(bootstrap). Prints the shifts and the gains, which are optimistic: score test patients by test.py.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from focusnet_v2.cases import cases_of
from focusnet_v2.grids import cut
from focusnet_v2.inference import predict_volume
from focusnet_v2.test import Options as FocusNetOptions
from focusnet_v2.test import load as load_focusnet
from sepnet.dataset import case_folders, load_case
from sepnet.inference import segment
from sepnet.test import Options as SepNetOptions
from sepnet.test import load as load_sepnet
from shared_data.checkpoints import write_archive
from shared_data.metrics import bootstrap_interval, dice
from shared_data.volume import read_volume

SHIFTS = np.arange(-8, 2.01, 0.5)
ROUNDS = 2  # over the organs, which compete


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=PROJECTS)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--prepared-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    predict, bias = PROJECTS[options.project]
    organs, cases = predict(options.checkpoint, options.prepared_dir)
    shifts = fit([(np.log(probability.clip(1e-9)), labels) for probability, labels in cases], organs)
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    state["model"][bias] += torch.from_numpy(shifts).to(state["model"][bias])
    write_archive(options.output, lambda stream: torch.save(state, stream))


def fit(cases, organs):
    """(C,) shifts of the logits, background first, from [(log probabilities (C, z, y, x), labels (z, y, x))]."""
    shifts = np.zeros(len(organs) + 1, np.float32)
    for last in [False] * (ROUNDS - 1) + [True]:
        for label, organ in enumerate(organs, 1):
            scores = []  # of the patients, each for every shift
            for logits, truth in cases:
                if (drawn := truth == label).any():
                    others = np.delete(logits, label, 0) + np.delete(shifts, label)[:, None, None, None]
                    margin = others.max(0) - logits[label]
                    scores.append([dice(drawn, shift > margin) for shift in SHIFTS])
            if not scores:
                continue
            best = int(np.mean(scores, 0).argmax())
            gains = np.array(scores)[:, best] - np.array(scores)[:, SHIFTS == 0][:, 0]
            low, high = bootstrap_interval(gains)
            shifts[label] = SHIFTS[best] if low > 0 else 0
            if last:
                print(f"{organ}: {shifts[label]:+.1f} (best {SHIFTS[best]:+.1f}: Dice {gains.mean():+.3f}, {low:+.3f} "
                      f"to {high:+.3f}, {len(gains)} validation patients)", flush=True)
    return shifts


def sepnet(checkpoint, prepared_dir):
    members, cases = load_sepnet(SepNetOptions(checkpoint=(checkpoint,), window_step=8)), []
    for folder in case_folders(replace(members.config, prepared_dir=prepared_dir), "valid"):
        case, parts = load_case(folder, members.transforms[0]), []
        segment(members.networks, [case["image"]], members.config, members.device, look=parts.append)
        cases.append((np.concatenate(parts, 1), case["label"]))
    return members.config.organs, cases


def focusnet(checkpoint, prepared_dir):
    networks, config, _, device = load_focusnet(FocusNetOptions(checkpoint=(checkpoint,), prepared_dir=prepared_dir))
    cases = []
    for name in cases_of(config, "valid"):
        hu, labels = (sitk.GetArrayFromImage(read_volume(config.prepared_dir / "resampled" / name / f"{part}.nrrd"))
                      for part in ("image", "label"))
        maps = predict_volume(networks[0], hu, config, device)
        cases.append((maps["probability"], cut(labels, maps["start"], maps["probability"].shape[1:])))
    return config.organs, cases


PROJECTS = {"sepnet": (sepnet, "classify.2.bias"), "focusnet": (focusnet, "head.bias")}

if __name__ == "__main__":
    main()
