"""Peak memory of predicting a phantom head in a 512x512x200 CT (0.98x0.98x2.5 mm) with the whole network, over 8 GB.

    python -m tests.bench.focusnet_memory [--window-step 40]

Full width, random weights; step 40 to save time, since the peak does not depend on it.
"""
import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from focusnet_v2.checkpoint import save_checkpoint
from focusnet_v2.config import Config
from focusnet_v2.networks import build_network
from shared_data.phantoms_head import head
from shared_data.settings import to_plain
from shared_data.volume import write_volume
from tests.bench.measured import measured

LIMIT_GB = 8.0


def run(window_step=40):
    with tempfile.TemporaryDirectory() as folder:
        spacing = (210 / 214, 210 / 214, 2.5)
        hu, _ = head(0, (200, 214, 214), spacing)
        ct = sitk.GetImageFromArray(np.pad(hu, [(0, 0), (200, 98), (149, 149)], constant_values=-1000))
        ct.SetSpacing(spacing)
        write_volume(ct, Path(folder) / "ct.nrrd")
        config = Config()
        save_checkpoint(Path(folder) / "full.pt", stage="adversarial", config=to_plain(config),
                        model=build_network(config).state_dict())
        _, peak = measured([sys.executable, "-m", "focusnet_v2.predict", "--input", f"{folder}/ct.nrrd", "--output",
                            f"{folder}/labels.nrrd", "--checkpoint", f"{folder}/full.pt", "--window-step", window_step])
    return {f"peak memory of predict / {LIMIT_GB} GB": peak / LIMIT_GB}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window-step", type=int, default=40)
    for name, ratio in run(**vars(parser.parse_args())).items():
        print(f"{name}: {ratio:.3f}")
