"""Scores of label maps, thin over SimpleITK; distances in mm. Absent on both sides is NaN, never 0 or 1."""
import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import SimpleITK as sitk
from skimage.measure import regionprops

from shared_data.named_types import Box, Floats, Labels, Mask, Range, Row
from shared_data.votes import disagreement

SHORT_AXIS_MM = {"all": (0, math.inf), "< 5 mm": (0, 5), "5-10 mm": (5, 10), ">= 10 mm": (10, math.inf)}


def dice(reference: Mask, prediction: Mask) -> float:
    """Dice of two boolean arrays; NaN when both are empty."""
    total = int(reference.sum()) + int(prediction.sum())
    return 2 * int((reference & prediction).sum()) / total if total else math.nan


def overgrown(labels: Labels, n_classes: int) -> Mask:
    """(n_classes,) boolean: which classes, background never, fill more than half of a label map."""
    filled = 2 * np.bincount(labels.ravel(), minlength=n_classes) > labels.size
    filled[0] = False
    return filled


def surface_distances(reference: Mask, prediction: Mask, spacing_xyz: Sequence[float]) -> dict[str, float]:
    """{"hd95_mm", "assd_mm"} of two boolean arrays (z, y, x).

    HD95 is the larger of the two directed 95th percentiles; ASSD the mean over all surface voxels of both.
    One side empty: infinite. Both: NaN.
    """
    if not (reference.any() and prediction.any()):
        value = math.inf if reference.any() or prediction.any() else math.nan
        return {"hd95_mm": value, "assd_mm": value}
    box = bounding_box(reference | prediction)
    # Padded: a mask that reaches the edge of the volume has a surface there, as in MONAI.
    of_reference, of_prediction = (_surface(np.pad(mask[box], 1), spacing_xyz) for mask in (reference, prediction))
    to_prediction = of_prediction["distance"][of_reference["voxels"]]
    to_reference = of_reference["distance"][of_prediction["voxels"]]
    return {"hd95_mm": float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
            "assd_mm": float(np.concatenate([to_prediction, to_reference]).mean())}


def components(mask: Mask) -> tuple[Labels, int]:
    """Connected components (26 neighbours) of a boolean array: (labels (z, y, x), their number)."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
    return labels, int(labels.max())


def detection(reference: Mask, prediction: Mask, spacing_xyz: Sequence[float]) -> tuple[list[Row], int]:
    """Node by node: which reference components a predicted one touches.

    Returns ([{"node", "short_axis_mm", "volume_ml", "found"}], number of predicted components touching none).
    """
    nodes, _ = components(reference)
    predicted, n_predicted = components(prediction)
    found = set(np.unique(nodes[prediction]).tolist())
    touching = set(np.unique(predicted[reference]).tolist()) - {0}
    voxel_ml = math.prod(spacing_xyz) / 1000
    rows = [{"node": node.label, "short_axis_mm": short_axis_mm(node.image, spacing_xyz),
             "volume_ml": float(node.num_pixels * voxel_ml), "found": node.label in found}
            for node in regionprops(nodes)]
    return rows, n_predicted - len(touching)


def detection_by_size(nodes: Sequence[Row]) -> list[Row]:
    """Sensitivity for all nodes of `detection` and by short axis."""
    rows = []
    for name, (low, high) in SHORT_AXIS_MM.items():
        found = [node["found"] for node in nodes if low <= node["short_axis_mm"] < high]
        rows.append({"short axis": name, "nodes": len(found), "found": sum(found), "sensitivity": mean(found)})
    return rows


def list_components(mask: Mask, grid: sitk.Image, entropy: Floats | None = None) -> list[Row]:
    """[{"volume_ml", "short_axis_mm", "centre_xyz_mm" (LPS)}] of a boolean array (z, y, x) on the grid of an image in
    LPS order, largest first. With the entropy (z, y, x) of an ensemble's votes also what `disagreement` says of each.
    """
    spacing = grid.GetSpacing()
    labels, number = components(mask)
    votes = {} if entropy is None else disagreement(entropy, labels, range(1, number + 1))
    rows = [{"volume_ml": float(node.num_pixels * math.prod(spacing) / 1000),
             "short_axis_mm": short_axis_mm(node.image, spacing),
             "centre_xyz_mm": grid.TransformContinuousIndexToPhysicalPoint([float(i) for i in node.centroid[::-1]]),
             **votes.get(node.label, {})}
            for node in regionprops(labels)]
    return sorted(rows, key=lambda row: -row["volume_ml"])


def spread(values: Iterable[float | None]) -> Row:
    """{"mean", "std", "median" of the finite values, NaN for none, and "n", how many they are}"""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return {"mean": math.nan, "std": math.nan, "median": math.nan, "n": 0}
    return {"mean": statistics.mean(finite), "std": statistics.pstdev(finite), "median": statistics.median(finite),
            "n": len(finite)}


def mean(values: Iterable[float | None]) -> float:
    """Of the finite values; NaN for none."""
    return spread(values)["mean"]


def bootstrap_interval(values: Iterable[float], draws: int = 10_000) -> Range:
    """(low, high): 95 % interval of the mean of the finite values, one a patient, from sets of patients drawn with
    replacement (percentile bootstrap); NaN for none."""
    values = np.array([value for value in values if math.isfinite(value)])
    if not len(values):
        return math.nan, math.nan
    means = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def short_axis_mm(node: Mask, spacing_xyz: Sequence[float]) -> float:
    """Short axis of a boolean array (z, y, x): the minor axis of the ellipse with the same second moments,
    in the axial slice where the node is largest."""
    largest = node[node.sum(axis=(1, 2)).argmax()].astype(np.uint8)
    ellipse = regionprops(largest, spacing=(spacing_xyz[1], spacing_xyz[0]))[0]
    return float(ellipse.axis_minor_length)


def _surface(mask, spacing_xyz):
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing_xyz)
    contour = sitk.LabelContour(image)
    distance = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
    return {"voxels": sitk.GetArrayViewFromImage(contour) > 0,
            "distance": np.abs(sitk.GetArrayFromImage(distance))}


def bounding_box(mask: Mask) -> Box:
    """Slices around the True voxels."""
    axes = range(mask.ndim)
    used = [np.flatnonzero(mask.any(axis=tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in used)
