"""The preparation of the three PyTorch projects as one would write it at first: in one process, one file after
another, with whole arrays and without checks.

    python -m tests.bench.plain_preparation snet|focusnet|sepnet RAW OUT
"""
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import TABLES as FOCUSNET_TABLES
from sepnet.config import CONTROL_POINTS


def snet(raw, out):
    """A float32 file of window and mask for each slice."""
    for patient in sorted(raw.iterdir()):
        hu, mask = (read(patient / name)[1] for name in ("IM0001.nrrd", "Segmentation.nrrd"))
        unit = ((hu + 160.0) / 400).clip(0, 1).astype(np.float32)
        for k, (slice_, nodes) in enumerate(zip(unit, mask)):
            np.savez_compressed(out / f"{patient.name}_{k}.npz", image=slice_, mask=nodes)


def focusnet(raw, out):
    """CT and labels at 1x1x2.5 mm."""
    for case in sorted(path for path in raw.iterdir() if (path / "img.nrrd").exists()):
        image, _ = read(case / "img.nrrd")
        labels = sitk.Image(image.GetSize(), sitk.sitkUInt8)
        labels.CopyInformation(image)
        for label, organ in enumerate(FOCUSNET_TABLES["pddca"]["organs"], 1):
            if (path := case / "structures" / f"{organ}.nrrd").exists():
                labels = sitk.Maximum(labels, sitk.Cast(read(path)[0] > 0, sitk.sitkUInt8) * label)
        spacing = (1.0, 1.0, 2.5)
        size = [round(n * old / new) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing)]
        for name, volume, how in (("image", image, sitk.sitkLinear), ("label", labels, sitk.sitkNearestNeighbor)):
            moved = sitk.Resample(volume, size, sitk.Transform(), how, image.GetOrigin(), spacing, image.GetDirection())
            write(moved, out / case.name / f"{name}.nrrd")


def sepnet(raw, out, side=256):
    """The centre crop through three intensity functions, and its labels."""
    for case in sorted(path for path in raw.rglob("*") if (path / "data.nii.gz").exists()):
        (_, hu), (_, labels) = read(case / "data.nii.gz"), read(case / "label.nii.gz")
        start = [max(0, (n - side) // 2) for n in hu.shape[1:]]
        box = (slice(None), *(slice(at, at + side) for at in start))
        for name in ("multi_thresh_1", "multi_thresh_2", "multi_thresh_3"):
            points = CONTROL_POINTS[name]
            unit = np.interp(hu[box], points[::2], points[1::2]).astype(np.float32)
            write(sitk.GetImageFromArray(unit), out / case.name / f"{name}.nii.gz")
        write(sitk.GetImageFromArray(labels[box]), out / case.name / "label.nii.gz")


def read(path):
    image = sitk.ReadImage(str(path))
    return image, sitk.GetArrayFromImage(image)


def write(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)


if __name__ == "__main__":
    project, raw, out = sys.argv[1:]
    Path(out).mkdir(parents=True)
    {"snet": snet, "focusnet": focusnet, "sepnet": sepnet}[project](Path(raw), Path(out))
