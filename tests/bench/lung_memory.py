"""Peak memory of predicting a 300-slice 512x512 CT with the paper's network, over 6 GB.

    python -m tests.bench.run lung_memory       (in .venv-keras)

Seven minutes on one core. Most of the memory is the network's with its batch of four slices: 40 slices take 1.8 GB,
300 take 2.7 GB.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.checkpoint import save_checkpoint
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.lungs import to_matrix
from lung_nodule_nasnet.nasnet_v2 import build_network
from shared_data.phantoms_chest import chest
from shared_data.settings import to_plain
from tests.bench.measured import measured

LIMIT_GB = 6


def run(slices=300):
    with tempfile.TemporaryDirectory() as folder:
        hu, _ = chest(1, (10, 128, 128))
        image = sitk.GetImageFromArray(np.stack([to_matrix(np.maximum(hu[k % 10], -1024)) for k in range(slices)]))
        image.SetSpacing((0.7, 0.7, 1.0))
        sitk.WriteImage(image, f"{folder}/ct.nrrd")
        network = build_network(Config())
        save_checkpoint(Path(folder) / "best.npz", {"config": to_plain(Config())},
                        weights=[variable.numpy() for variable in network.variables])
        command = [sys.executable, "-m", "lung_nodule_nasnet.predict", "--input", f"{folder}/ct.nrrd", "--output",
                   f"{folder}/mask.nrrd", "--checkpoint", f"{folder}/best.npz"]
        seconds, peak = measured(command)
        print(f"{slices} slices: {peak:.2f} GB, {seconds:.0f} s")
    return {f"peak memory of predicting {slices} slices / {LIMIT_GB} GB": peak / LIMIT_GB}
