"""From a CT to the grid the networks see, and parts of it."""
from collections.abc import Sequence
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from focusnet_v2.config import Config, CropConfig, Organs
from shared_data.named_types import Array, Box, Floats, Geometry, Shape
from shared_data.volume import geometry, image_from

AIR_HU, BONE_HU, BODY_HU = -1024, 250, -300
HEAD_MM, MARGIN_MM = 250.0, 25.0  # vertex to chin; skin, glands and what the bones do not show
SHOULDERS_MM = 220.0  # bones of one slice that lie further apart along x are no longer the head's
COUCH_MM = 8.0  # couches and head rests are shells: half the thickness of what is no body
BODY_SHARE = 0.05  # of the largest part: a body may be cut in pieces, as OpenKBP's are
# What `seen_box` goes by; kept beside crops made by it, and in checkpoints.
CONSTANTS = {"BONE_HU": BONE_HU, "BODY_HU": BODY_HU, "HEAD_MM": HEAD_MM, "MARGIN_MM": MARGIN_MM,
             "SHOULDERS_MM": SHOULDERS_MM, "COUCH_MM": COUCH_MM, "BODY_SHARE": BODY_SHARE}


def to_network_grid(image: sitk.Image, config: Organs, interpolator: int = sitk.sitkLinear) -> sitk.Image:
    """An image in LPS resampled to `spacing_xyz`; its outer edges stay where they are, less an incomplete last voxel.

    resample_axes "original" takes x's spacing for y and y's for x, as the authors' code does; the geometry stays true.
    """
    spacing = np.array(config.spacing_xyz)
    if config.resample_axes == "original":
        x, y, _ = image.GetSpacing()
        spacing *= (x / y, y / x, 1)
    return resampled(image, spacing, interpolator)


def resampled(image: sitk.Image, spacing_xyz: Sequence[float] | Array, interpolator: int = sitk.sitkLinear,
              align_corners: bool = False) -> sitk.Image:
    """An image with another spacing. align_corners: the centres of its first and last voxels stay where they are, and
    the spacing gives only the size."""
    old = np.array(image.GetSpacing())
    size = np.maximum(1, np.floor(np.array(image.GetSize()) * old / spacing_xyz + 1e-4)).astype(int)
    new, first = np.array(spacing_xyz, float), (np.array(spacing_xyz) / old - 1) / 2
    if align_corners:
        new, first = old * (np.array(image.GetSize()) - 1) / np.maximum(size - 1, 1), np.zeros(3)
    origin = image.TransformContinuousIndexToPhysicalPoint(first.tolist())
    return sitk.Resample(image, size.tolist(), sitk.Transform(), interpolator, origin, new.tolist(),
                         image.GetDirection(), 0, image.GetPixelID(), True)


def cut(array: Array, start_zyx: Sequence[int] | Array, shape_zyx: Sequence[int],
        fill: float | Literal["edge"] = 0) -> Array:
    """The box of a volume (..., z, y, x) that begins at `start_zyx`; outside the volume `fill`, or edge values."""
    start, stop, shape = np.array(start_zyx), start_zyx + np.array(shape_zyx), array.shape[-3:]
    low, high = np.clip(start, 0, shape), np.clip(stop, 0, shape)
    z, y, x = map(slice, low, high)
    part = array[..., z, y, x]
    before = np.clip(-start, 0, shape_zyx)
    margins = [(0, 0)] * (array.ndim - 3) + list(zip(before, np.array(shape_zyx) - before - (high - low)))
    if not any(map(any, margins)):
        return part
    return np.pad(part, margins, "edge") if fill == "edge" else np.pad(part, margins, constant_values=fill)


def cut_image(image: sitk.Image, start_zyx: Sequence[int], shape_zyx: Sequence[int], fill: float = 0) -> sitk.Image:
    """`cut` of an image, with the true origin of the part."""
    array = cut(sitk.GetArrayViewFromImage(image), start_zyx, shape_zyx, fill)
    origin = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in start_zyx[::-1]])
    return image_from(np.ascontiguousarray(array), {**geometry(image), "origin_xyz": list(origin)})


def seen_box(hu_zyx: Array, config: CropConfig | Config) -> tuple[Shape, Shape]:
    """(start, shape) (z, y, x) of the part of a CT that is segmented, HU on the network's grid; its low end may lie
    outside.

    At least a patch. In plane the central square of `window_side`; if that is unset, what holds the bones of the head,
    wherever on the table it lies: those of the body within HEAD_MM of the highest, without slices that show the
    shoulders, and MARGIN_MM around them (no bone: all).
    """
    depth, *plane = hu_zyx.shape
    slices = max(depth, config.patch_zyx[0])
    low, high = np.zeros(2, int), np.array(plane)
    if config.window_side:
        low = (high - config.window_side) // 2
        high = low + config.window_side
    elif (head := _bones_of_the_head(hu_zyx, config.spacing_xyz)).any():
        margin = np.ceil(MARGIN_MM / np.array(config.spacing_xyz[1::-1])).astype(int)
        places = np.argwhere(head)
        low, high = np.maximum(0, places.min(0) - margin), np.minimum(plane, places.max(0) + 1 + margin)
    sides = np.maximum(4 * np.ceil((high - low) / 4).astype(int), config.patch_zyx[1:])
    start = (low + high - sides) // 2
    return (depth - slices, *start.tolist()), (slices, *sides.tolist())


def _bones_of_the_head(hu_zyx, spacing_xyz):
    """Boolean (y, x): where the upper slices hold bone, specks left out."""
    bone = (hu_zyx > BONE_HU) & _body(hu_zyx, spacing_xyz)
    with_bone = np.flatnonzero(bone.sum((1, 2)) >= 3)
    top = with_bone[-1] + 1 if len(with_bone) else 0
    bone = bone[max(0, top - round(HEAD_MM / spacing_xyz[2])):top]
    columns = bone.any(1)
    width = columns.shape[1] - columns[:, ::-1].argmax(1) - columns.argmax(1)  # voxels, of the slices with bone
    return bone[width * spacing_xyz[0] <= SHOULDERS_MM].sum(0) >= 2


def _body(hu_zyx, spacing_xyz):
    """Boolean (z, y, x): the large things that are thicker than a couch; found on voxels of some COUCH_MM / 2."""
    step = np.maximum(1, np.round(COUCH_MM / 2 / np.array(spacing_xyz[::-1]))).astype(int)
    solid = hu_zyx[tuple(slice(None, None, n) for n in step)] > BODY_HU
    radius = np.maximum(1, np.round(COUCH_MM / (step * spacing_xyz[::-1]))).astype(int)
    ball = sum((np.arange(-r, r + 1).reshape([-1 if i == axis else 1 for i in range(3)]) / r) ** 2
               for axis, r in enumerate(radius)) <= 1
    ends = (radius[0],) * 2  # a body goes on below and above the CT
    core = ndimage.binary_erosion(np.pad(solid, (ends, (0, 0), (0, 0)), "edge"), ball)[ends[0]:-ends[0]]
    parts, n_parts = ndimage.label(core)
    if not n_parts:
        return np.ones(hu_zyx.shape, bool)
    sizes = np.bincount(parts.ravel())[1:]
    body = ndimage.binary_dilation(np.isin(parts, np.flatnonzero(sizes >= BODY_SHARE * sizes.max()) + 1), ball)
    for axis, n in enumerate(step):
        body = body.repeat(n, axis)
    return body[tuple(map(slice, hu_zyx.shape))]


def unit(hu: Array) -> Floats:
    """What the networks see of Hounsfield units: (HU + 100) / 1000 (authors)."""
    return (hu.astype(np.float32) + 100) / 1000


def onto_grid(array_zyx: Array, grid: Geometry, target: sitk.Image, box: Box | None = None,
              interpolator: int = sitk.sitkLinear) -> tuple[Array, Box]:
    """(values on the voxels of `target` that lie within the part, their slices): an array on a part of a CT, grid: its
    `geometry`, target: an image in the same directions; box: only so much of the array (slices)."""
    part = image_from(array_zyx, grid)
    box = box or tuple(slice(0, n) for n in array_zyx.shape)
    corners = [target.TransformPhysicalPointToContinuousIndex(part.TransformContinuousIndexToPhysicalPoint(at))
               for at in ([side.start - 0.5 for side in box[::-1]], [side.stop - 0.5 for side in box[::-1]])]
    low, high = np.sort(corners, axis=0)
    first = np.clip(np.ceil(low - 1e-3), 0, target.GetSize()).astype(int)
    last = np.clip(np.floor(high + 1e-3) + 1, first, target.GetSize()).astype(int)
    box = tuple(slice(start, stop) for start, stop in zip(first[::-1], last[::-1]))
    size = (last - first).tolist()
    if 0 in size:
        return np.zeros(size[::-1], array_zyx.dtype), box
    origin = target.TransformContinuousIndexToPhysicalPoint(first.astype(float).tolist())
    values = sitk.Resample(part, size, sitk.Transform(), interpolator, origin, target.GetSpacing(),
                           target.GetDirection(), 0, part.GetPixelID(), True)
    return sitk.GetArrayFromImage(values), box
