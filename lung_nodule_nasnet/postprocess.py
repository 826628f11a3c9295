"""Probability to mask to nodules: python postprocess.py --probability probability.nii.gz --output mask.nii.gz

Each slice is cut at the middle of two class centres; what is left becomes nodules, connected over the slices. The
probability is what `predict.py --save-probability` writes. Beside the mask comes <name>_nodules.csv.
"""
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.config import Config, ThresholdRule
from lung_nodule_nasnet.two_means import stopped_two_means_threshold, two_means_centres
from shared_data.errors import run_script
from shared_data.files import write_table
from shared_data.metrics import components
from shared_data.named_types import Floats, Labels, Row
from shared_data.settings import parse_options
from shared_data.volume import check_output, geometry, onto_scan, read_volume, to_lps, without_suffix, write_volume

ERODE = np.ones((5, 5), np.uint8)
NODULE_COLUMNS = ("label", "coordX", "coordY", "coordZ", "diameter_mm", "volume_ml", "probability", "slices")


@dataclass(frozen=True)
class Options:
    probability: Path  # probability volume
    output: Path  # the mask; its suffix is its format
    threshold_rule: ThresholdRule = Config.threshold_rule  # cut: one for all; authors: two-means even in empty slices
    centre_distance: float = Config.centre_distance  # floor: a slice whose two class centres are closer stays empty
    cut: float = Config.cut  # cut: the probability above which a pixel is nodule
    erode: bool = Config.erode  # erode the mask of a slice by 5x5
    min_pixels: int = Config.min_pixels  # a slice with fewer mask pixels counts as empty

    def __post_init__(self) -> None:
        if self.centre_distance < 0 or self.min_pixels < 1:
            raise ValueError("--centre-distance must be at least 0, --min-pixels at least 1.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    check_output(options.output, options.probability)
    stored = read_volume(options.probability)
    image = to_lps(stored)
    probability = sitk.GetArrayFromImage(image).astype(np.float32)
    rules = {field.name: getattr(options, field.name) for field in fields(Options)[2:]}
    mask = np.stack([slice_mask(plane, replace(Config(), **rules)) for plane in probability])
    write_volume(onto_scan(mask, geometry(stored)), options.output)
    nodules, _ = find_nodules(mask, probability, image)
    write_table(f"{without_suffix(options.output)}_nodules.csv", nodules, NODULE_COLUMNS)
    print(f"{len(nodules)} nodules: {options.output}")


def slice_mask(probability: Floats, config: Config) -> Labels:
    """(Y, X) uint8 of one slice's nodule probability."""
    if config.threshold_rule == "authors":
        mask = (probability > stopped_two_means_threshold(probability)).astype(np.uint8)
    elif config.threshold_rule == "cut":
        mask = (probability > config.cut).astype(np.uint8)
    else:
        low, high = two_means_centres(probability)
        if high - low < config.centre_distance:
            return np.zeros(probability.shape, np.uint8)
        mask = (probability > (low + high) / 2).astype(np.uint8)
    if config.erode:
        mask = np.asarray(cv2.erode(mask, ERODE), np.uint8)
    return mask if mask.sum() >= config.min_pixels else np.zeros_like(mask)


def find_nodules(mask: Labels, probability: Floats, image: sitk.Image) -> tuple[list[Row], Labels]:
    """(nodules, the most probable first; labels (z, y, x)): connected (26 neighbours) parts of a mask (z, y, x).

    A nodule is {"label", "coordX", "coordY", "coordZ" (mm, LPS), "diameter_mm" (of a sphere), "volume_ml",
    "probability" (mean), "slices"}.
    """
    labels, n = components(mask > 0)
    places = np.flatnonzero(labels)
    places = places[np.argsort(labels.ravel()[places], kind="stable")]
    starts = np.searchsorted(labels.ravel()[places], np.arange(1, n + 2))
    nodules = []
    for label, (start, stop) in enumerate(zip(starts, starts[1:]), 1):
        z, y, x = np.unravel_index(places[start:stop], mask.shape)
        volume_mm3 = len(z) * float(np.prod(image.GetSpacing()))
        centre = image.TransformContinuousIndexToPhysicalPoint((float(x.mean()), float(y.mean()), float(z.mean())))
        nodules.append(dict(zip(NODULE_COLUMNS, (
            label, *centre, (6 * volume_mm3 / np.pi) ** (1 / 3), volume_mm3 / 1000,
            float(probability[z, y, x].mean()), len(np.unique(z))))))
    return sorted(nodules, key=lambda nodule: -nodule["probability"]), labels


if __name__ == "__main__":
    run_script(main)
