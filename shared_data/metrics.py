"""Scores of label maps, computed by SimpleITK; distances in mm. What is absent on both sides scores NaN, not 0 or 1."""
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
    """(n_classes,) boolean: which classes other than the background fill more than half of a label map."""
    filled = 2 * np.bincount(labels.ravel(), minlength=n_classes) > labels.size
    filled[0] = False
    return filled


def surface_distances(reference: Mask, prediction: Mask, spacing_xyz: Sequence[float]) -> dict[str, float]:
    """{"hd95_mm", "assd_mm"} of two boolean arrays (z, y, x).

    HD95 is the larger of the two directed 95th percentiles, ASSD the mean over the surface voxels of both.
    Infinite when one array is empty, NaN when both are.
    """
    if not (reference.any() and prediction.any()):
        value = math.inf if reference.any() or prediction.any() else math.nan
        return {"hd95_mm": value, "assd_mm": value}
    box = bounding_box(reference | prediction)
    # Padded, so that a mask has a surface where it reaches the edge of the volume, as in MONAI.
    of_reference, of_prediction = (_surface(np.pad(mask[box], 1), spacing_xyz) for mask in (reference, prediction))
    to_prediction = of_prediction["distance"][of_reference["voxels"]]
    to_reference = of_reference["distance"][of_prediction["voxels"]]
    return {"hd95_mm": float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
            "assd_mm": float(np.concatenate([to_prediction, to_reference]).mean())}


def components(mask: Mask) -> tuple[Labels, int]:
    """(labels, number of them) of the connected components (26 neighbours) of a boolean array (z, y, x)."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
    return labels, int(labels.max())


def detection(reference: Mask, prediction: Mask, spacing_xyz: Sequence[float]) -> tuple[list[Row], int]:
    """Which components of the reference are found, that is, touched by a predicted voxel; arrays (z, y, x).

    Returns ([{"node", "short_axis_mm", "volume_ml", "found"}], number of predicted components that touch none).
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
    """Sensitivity over all nodes of `detection`, and by their short axis."""
    rows = []
    for name, (low, high) in SHORT_AXIS_MM.items():
        found = [node["found"] for node in nodes if low <= node["short_axis_mm"] < high]
        rows.append({"short axis": name, "nodes": len(found), "found": sum(found), "sensitivity": mean(found)})
    return rows


def list_components(mask: Mask, grid: sitk.Image, entropy: Floats | None = None) -> list[Row]:
    """[{"volume_ml", "short_axis_mm", "centre_xyz_mm" (LPS)}] of the components of a boolean array (z, y, x), largest
    first. grid: an image in LPS; entropy (z, y, x) of an ensemble's votes: adds what `disagreement` says.
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
    """{"mean", "std", "median", "n"} of the finite values: NaN and n 0 if there is none."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return {"mean": math.nan, "std": math.nan, "median": math.nan, "n": 0}
    return {"mean": statistics.mean(finite), "std": statistics.pstdev(finite), "median": statistics.median(finite),
            "n": len(finite)}


def mean(values: Iterable[float | None]) -> float:
    """Mean of the finite values; NaN if there is none."""
    return spread(values)["mean"]


def bootstrap_interval(values: Iterable[float], draws: int = 10_000) -> Range:
    """(low, high): 95 % interval of the mean of the finite values, one per patient, by a percentile bootstrap over
    patients; NaN if there is none."""
    values = np.array([value for value in values if math.isfinite(value)])
    if not len(values):
        return math.nan, math.nan
    means = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def short_axis_mm(node: Mask, spacing_xyz: Sequence[float]) -> float:
    """Short axis of a node, a boolean array (z, y, x): the minor axis of the ellipse with the same second moments, in
    the axial slice where the node is largest."""
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
    """The smallest box around the True voxels. Raises IndexError when there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(i for i in range(mask.ndim) if i != axis)
        used = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(box)
