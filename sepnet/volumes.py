"""From a CT to the network's input and back: piecewise-linear intensity functions, resampling, centre crop."""
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from sepnet.config import Config
from shared_data.crop import centre_crop, crop_boxes, undo_crop
from shared_data.named_types import Array, Floats, Geometry
from shared_data.volume import geometry, image_from

SPLINE_REACH = 16  # voxels from which on a cubic B-spline's values hardly depend on a voxel: 1e-9 of it


def segmental_linear(hu: Array, knots_hu: Sequence[float], values: Sequence[float]) -> Floats:
    """The piecewise-linear map through the points (knots_hu, values), float64 (authors).

    0 below the first knot, whatever its value; the last value from the last knot on.
    """
    return np.interp(hu, knots_hu, values, left=0)


def transformed(hu: Array, points: Sequence[float]) -> Floats:
    """`segmental_linear` through control points (HU, value, HU, value, ...), float32."""
    return segmental_linear(hu, points[::2], points[1::2]).astype(np.float32)


def hu_of(values: Array, points: Sequence[float]) -> Floats:
    """The inverse of `transformed`: HU, float32, limited to those of the first and the last point."""
    return np.interp(values, points[1::2], points[::2]).astype(np.float32)


def network_grid(image: sitk.Image, config: Config, interpolator: int = sitk.sitkBSpline3,
                 fill: float = -1024) -> sitk.Image:
    """An image in LPS on the network's grid before the crop: unchanged, or resampled to `spacing_zyx`. By B-splines,
    whose coefficients take long, in the centre crop alone: outside it are the values of the nearest voxels."""
    spacing = [*config.spacing_zyx[::-1]]
    if not config.resample or np.allclose(image.GetSpacing(), spacing, rtol=1e-5):
        return image
    size = [max(2, round(n * old / new)) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing)]
    # Keeps the outer edges of the volume in place.
    origin = image.TransformContinuousIndexToPhysicalPoint(
        [(new / old - 1) / 2 for old, new in zip(image.GetSpacing(), spacing)])
    whole = sitk.Resample(image, size, sitk.Transform(), sitk.sitkNearestNeighbor, origin, spacing,
                          image.GetDirection(), fill, image.GetPixelID(), True)
    if interpolator == sitk.sitkNearestNeighbor:
        return whole
    rows, columns = crop_boxes(size[1::-1], config.crop_size)[0]
    near = [slice(max(0, math.floor(part.start * new / old) - SPLINE_REACH), math.ceil(part.stop * new / old)
                  + SPLINE_REACH) for part, old, new in zip((columns, rows), image.GetSpacing(), spacing)]
    whole[columns, rows] = sitk.Resample(image[near[0], near[1]], whole[columns, rows], sitk.Transform(), interpolator,
                                         fill, image.GetPixelID(), True)
    return whole


def cropped(image: sitk.Image, size: int, fill: float = 0) -> tuple[Array, Geometry]:
    """(array (z, y, x), its geometry) of an image's centre crop, `size` voxels along x and y."""
    array = centre_crop(sitk.GetArrayViewFromImage(image), size, fill)
    start = [(length - size) // 2 for length in image.GetSize()[:2]]
    origin = image.TransformContinuousIndexToPhysicalPoint([*map(float, start), 0.0])
    return array, {**geometry(image), "size_xyz": [size, size, image.GetSize()[2]], "origin_xyz": list(origin)}


def onto_lps(labels_zyx: Array, network_grid: Geometry, ct_grid: Geometry) -> Array:
    """Labels on the crop -> labels (z, y, x) on the CT's grid in LPS.

    network_grid, ct_grid: `geometry` of the network's grid before the crop, and of the CT in LPS.
    """
    labels = undo_crop(labels_zyx, network_grid["size_xyz"][1::-1])
    if network_grid == ct_grid:
        return labels
    target = image_from(np.zeros(ct_grid["size_xyz"][::-1], np.uint8), ct_grid)
    resampled = sitk.Resample(image_from(labels, network_grid), target, sitk.Transform(), sitk.sitkNearestNeighbor, 0,
                              sitk.sitkUnknown, True)
    return sitk.GetArrayFromImage(resampled)
