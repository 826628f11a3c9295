"""Scores of one case, organ by organ, and their summary over cases."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import Config
from focusnet_v2.grids import cut
from shared_data.metrics import dice, spread, surface_distances
from shared_data.named_types import Labels, Mask, Row
from shared_results.calibration import histogram

SCORES = ("dice", "hd95_mm", "assd_mm")


def score_organs(case: str, reference: Labels, prediction: Labels, spacing_xyz: Sequence[float],
                 names: Mapping[int, str]) -> list[Row]:
    """One row per organ of two label maps (z, y, x), names: {label: organ}. An organ that the reference lacks was not
    contoured: no scores."""
    rows, ml = [], math.prod(spacing_xyz) / 1000
    for label, organ in names.items():
        truth, found = reference == label, prediction == label
        row: Row = {"case": case, "organ": organ, "reference": "yes" if truth.any() else "not contoured"}
        scores = ({"dice": dice(truth, found), **surface_distances(truth, found, spacing_xyz)} if truth.any()
                  else dict.fromkeys(SCORES, math.nan))
        rows.append({**row, **scores, "reference_ml": float(truth.sum() * ml),
                     "prediction_ml": float(found.sum() * ml)})
    return rows


def score_small_organs(case: str, ct: sitk.Image, reference: Labels, result: Mapping[str, Any],
                       config: Config) -> list[Row]:
    """One row per small organ that the reference has: Dice before and after the branches, and how far from the true
    centre (mm) the centre of the main network's voxels, and the heatmap's peak, lie. ct: image, result: `segment_ct`'s.
    """
    rows = []
    for i, label in enumerate(config.small_labels):
        truth = reference == label
        if not truth.any():
            continue
        centre, found = place_of(ct, truth), result["main"] == label
        peak, place = result["peaks"][i] if result["peaks"] else (math.nan, [math.nan] * 3)
        rows.append({
            "case": case, "organ": config.classes[label], "dice_before": dice(truth, found),
            "dice_after": dice(truth, result["final"] == label),
            "main_centre_mm": math.dist(centre, place_of(ct, found)) if found.any() else math.nan,
            "peak_centre_mm": math.dist(centre, place), "peak": peak, "box_counted": bool(result["counted"][i])})
    return rows


def organ_histograms(prediction: Mapping[str, Any], labels: np.ndarray, config: Config) -> np.ndarray:
    """`histogram` of each organ (organs, BINS + 1, 3) within what the networks saw, of `predict_members`' prediction
    and the labels of a whole CT (z, y, x), both on the network's grid; of a small organ whose box counted the branch's
    probabilities."""
    maps = dict(enumerate(prediction["probability"]))
    maps |= {config.small_labels[i]: prediction["small"][i] for i in np.flatnonzero(prediction["counted"])}
    reference = cut(labels, prediction["start"], maps[0].shape)
    return np.stack([histogram(maps[label], reference == label) for label in range(1, config.n_classes)])


def place_of(ct: sitk.Image, mask: Mask) -> Sequence[float]:
    """The centroid of a boolean array (z, y, x) in mm."""
    return ct.TransformContinuousIndexToPhysicalPoint(np.argwhere(mask).mean(0)[::-1].tolist())


def summarise(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """[{"organ", mean and standard deviation of each score over the rows where it is finite, how many these are}]"""
    summary = []
    for organ in dict.fromkeys(row["organ"] for row in rows):
        total: Row = {"organ": organ}
        for name in names:
            scores = spread([row[name] for row in rows if row["organ"] == organ])
            total |= {name: scores["mean"], f"{name}_std": scores["std"], f"n_{name}": scores["n"]}
        summary.append(total)
    return summary
