"""Turn a run's best.npz into the weights to ship: only what predict.py needs, without folders and history.

    python -m tests.bench.ship_lung_weights --checkpoint runs/lidc_crops/best.npz --cut 0.5 \
        --output lung_nodule_nasnet/weights/lidc_crops.npz

Kernels are stored in half precision, everything else as it is.
"""
import argparse
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.checkpoint import load_checkpoint, save_checkpoint


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cut", type=float, required=True, help="the probability above which a pixel is nodule")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    state, groups = load_checkpoint(options.checkpoint)
    config = {name: value for name, value in state["config"].items() if not name.endswith("_dir") and name != "resume"}
    shipped = {"config": {**config, "threshold_rule": "cut", "cut": options.cut},
               **{name: state[name] for name in ("train_series", "validation_series", "trained_on") if name in state}}
    weights = [array.astype(np.float16) if array.ndim > 1 else array for array in groups["weights"]]
    save_checkpoint(options.output, shipped, weights=weights)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
