"""Drawing a training batch from the cohort in memory against reading each patient's NIfTI files, as the authors do.

    python -m tests.bench.run sepnet_patches

Full size: 256x256x100 voxels, patches of 16x120x120, batch 4; the files are in the page cache.
"""
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sepnet import preprocess
from sepnet.config import Config
from sepnet.dataset import PatchDataset, draw_patch, load_cases
from shared_data.phantoms import write_structseg_cohort


def run(batches=3):
    with tempfile.TemporaryDirectory() as folder:
        write_structseg_cohort(Path(folder) / "raw", patients=5, size=256, slices=100)
        preprocess.main(["--data-dir", f"{folder}/raw", "--prepared-dir", f"{folder}/prepared"])
        config = Config(prepared_dir=Path(folder) / "prepared", workers=0)
        cases = load_cases(config, "train")
        results = {}
        for augment in (False, True):
            patches = PatchDataset(cases, replace(config, augment=augment))
            start = time.perf_counter()
            for step in range(batches):
                patches[0, step]
            drawn = (time.perf_counter() - start) / batches
            start = time.perf_counter()
            read_batch(config, [case["patient"] for case in cases], replace(config, augment=augment))
            results["with" if augment else "without"] = (time.perf_counter() - start) / drawn
    return {f"batch from files / from memory, {how} augmentation": ratio for how, ratio in results.items()}


def read_batch(config, patients, settings):
    """The same batch, each case read from its files first."""
    for patient in patients[:config.batch_size]:
        folder = config.prepared_dir / "train" / patient
        case = {"image": array(folder / f"{config.transform}.nii.gz"), "label": array(folder / "label.nii.gz"),
                "spacing_zyx": (1.0, 1.0, 1.0)}
        draw_patch(case, np.random.default_rng(0), settings)


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
