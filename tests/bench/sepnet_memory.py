"""Peak memory of predicting a 200x512x512 CT with 23 classes, over 8 GB.

    python -m tests.bench.sepnet_memory [--crop-size 256] [--slices 200] [--window-step 16]

Full width, random weights; --window-step 16 to save time, since the peak does not depend on it.
"""
import argparse
import sys
import tempfile
from pathlib import Path

from sepnet.checkpoint import save_checkpoint
from sepnet.config import Config
from sepnet.networks import build_network
from shared_data.phantoms import write_structseg_cohort
from shared_data.settings import to_plain
from tests.bench.measured import measured

LIMIT_GB = 8.0


def run(crop_size=256, slices=200, window_step=16):
    with tempfile.TemporaryDirectory() as folder:
        write_structseg_cohort(Path(folder), patients=1, size=512, slices=slices)
        config = Config(crop_size=crop_size)
        save_checkpoint(Path(folder) / "full.pt", config=to_plain(config), model=build_network(config).state_dict())
        _, peak = measured([sys.executable, "-m", "sepnet.predict", "--input", f"{folder}/1/data.nii.gz", "--output",
                            f"{folder}/labels.nii.gz", "--checkpoint", f"{folder}/full.pt", "--window-step",
                            window_step])
    return {f"peak memory of predict, {slices} slices, crop {crop_size} / {LIMIT_GB} GB": peak / LIMIT_GB}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--slices", type=int, default=200)
    parser.add_argument("--window-step", type=int, default=16)
    for name, ratio in run(**vars(parser.parse_args())).items():
        print(f"{name}: {ratio:.2f}")
