"""Turn a run's checkpoint into the weights to ship: only what predict.py needs, no paths, optimiser or history.

    python -m tests.bench.ship_weights --checkpoint runs/sepnet/openkbp/best.pt --output sepnet/weights/openkbp.pt
"""
import argparse
from pathlib import Path

import torch

from shared_data.checkpoints import write_archive

KEPT = ("project", "stage", "config", "constants", "trained_on", "model")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    state = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    shipped = {name: state[name] for name in KEPT if name in state}
    shipped["config"] = {name: value for name, value in state["config"].items()
                         if not name.endswith("_dir") and name not in ("cases_csv", "resume")}
    shipped["model"] = {name: tensor.contiguous().clone() for name, tensor in state["model"].items()}
    write_archive(options.output, lambda stream: torch.save(shipped, stream))
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
