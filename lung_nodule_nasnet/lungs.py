"""The lungs of a slice, and the slice the network sees. The authors' steps; offsets of even footprints as theirs."""
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lung_nodule_nasnet.two_means import counted_centres
from shared_data.named_types import Array, Floats, Labels, Mask

MATRIX = 512  # pixels along a side: all lengths below are meant for it
CENTRE = slice(100, 400)  # rows and columns the classes are found in
CROP = slice(57, 457)  # rows and columns kept
OUTSIDE_HU, AIR_HU = -2000, -1024  # at or below the first lies nothing that was scanned
ERODE, DILATE = np.ones((4, 4), np.uint8), np.ones((10, 10), np.uint8)
# Kept beside prepared slices, and in checkpoints.
CONSTANTS = {"MATRIX": MATRIX, "CENTRE": (CENTRE.start, CENTRE.stop), "CROP": (CROP.start, CROP.stop),
             "OUTSIDE_HU": OUTSIDE_HU, "AIR_HU": AIR_HU, "ERODE": ERODE.shape, "DILATE": DILATE.shape}


@dataclass(frozen=True)
class Lungs:
    image: Floats  # (512, 512) float32: standardised slice, 0 outside the lungs
    mask: Labels  # (512, 512) uint8
    threshold: float  # between the classes, standardised


def extract_lungs(hu: Array) -> Lungs:
    """`Lungs` of a slice (512, 512) in whole Hounsfield units.

    The slice's extremes count as the mean of its centre; what is below the middle of the two class centres there and
    forms components of plausible place and size is lung. Grown by 10x10, so that nodules at the wall stay in.
    """
    low = int(hu.min())
    level = (hu.astype(np.int32) - low).astype(np.uint16)
    counts = np.bincount(level.ravel())
    levels = np.arange(len(counts), dtype=np.float64)
    mean = levels @ counts / hu.size
    std = np.sqrt((levels - mean) ** 2 @ counts / hu.size)
    if std == 0:
        return Lungs(np.zeros(hu.shape, np.float32), np.zeros(hu.shape, np.uint8), 0.0)
    centre = np.bincount(level[CENTRE, CENTRE].ravel(), minlength=len(counts))
    central_mean = levels @ centre / centre.sum()
    standardised = (levels - mean) / std
    extremes = [0, len(counts) - 1]
    standardised[extremes] = (central_mean - mean) / std
    order = np.argsort(standardised, kind="stable")
    threshold = sum(counted_centres(standardised[order], centre[order])) / 2
    mask = plausible_lungs((standardised < threshold).astype(np.uint8)[level])
    return Lungs(standardised.astype(np.float32)[level] * mask, mask, float(threshold))


def plausible_lungs(dark: Labels) -> Labels:
    """Lung mask (uint8) of what is dark (uint8): opened, components of lung-like place and size, grown by 10x10."""
    opened = cv2.dilate(cv2.erode(dark, ERODE, anchor=(1, 1)), DILATE, anchor=(4, 4))
    _, components, boxes, _ = cv2.connectedComponentsWithStats(opened, connectivity=8, ltype=cv2.CV_16U)
    _, top, width, height, _ = boxes.T
    plausible = (height < 475) & (width < 475) & (top > 40) & (top + height < 472)
    plausible[0] = False
    return np.asarray(cv2.dilate(plausible.astype(np.uint8)[components], DILATE, anchor=(4, 4)), np.uint8)


def network_slice(hu: Array, size: int) -> Floats:
    """(size, size) float32 of a slice of any matrix in HU: its lungs, the central 400 of 512, resized to `size`."""
    return resized(extract_lungs(to_matrix(hu)).image[CROP, CROP], size)


def network_spacing(spacing_zyx: Sequence[float], shape_yx: Sequence[int], size: int) -> list[float]:
    """mm (z, y, x) between the pixels of `network_slice`, of a slice of `shape_yx`."""
    factor = max(shape_yx) / MATRIX * (CROP.stop - CROP.start) / size
    return [spacing_zyx[0], spacing_zyx[1] * factor, spacing_zyx[2] * factor]


def network_mask(mask: Mask, size: int) -> Mask:
    """A nodule mask (boolean, any matrix) on the same grid."""
    matrix = to_matrix(mask.astype(np.int16), 0, cv2.INTER_NEAREST_EXACT)
    return resized(matrix[CROP, CROP].astype(np.float32), size) > 0.5


def onto_slice(values: Array, shape_yx: Sequence[int]) -> Array:
    """Values (size, size) of the network's grid back on a slice of `shape_yx`, 0 outside; masks stay masks."""
    matrix = np.zeros((MATRIX, MATRIX), values.dtype)
    nearest = cv2.INTER_NEAREST_EXACT if values.dtype == np.uint8 else cv2.INTER_LINEAR
    matrix[CROP, CROP] = cv2.resize(values, (CROP.stop - CROP.start,) * 2, interpolation=nearest)
    return from_matrix(matrix, shape_yx, nearest)


def lung_mask(hu: Array) -> Labels:
    """(Y, X) uint8 of a slice of any matrix in HU, on its own pixels."""
    return from_matrix(extract_lungs(to_matrix(hu)).mask, hu.shape, cv2.INTER_NEAREST_EXACT)


def from_matrix(matrix: Array, shape_yx: Sequence[int], interpolation: int) -> Array:
    """A slice of 512x512 back on `shape_yx`: undoes `to_matrix`."""
    side = max(shape_yx)
    if side != MATRIX:
        matrix = cv2.resize(matrix, (side, side), interpolation=interpolation)
    top, left = ((side - n) // 2 for n in shape_yx)
    return matrix[top:top + shape_yx[0], left:left + shape_yx[1]]


def to_matrix(plane: Array, outside: float = AIR_HU, interpolation: int | None = None) -> Array:
    """A slice of another matrix resampled to 512x512, its field of view kept; made square with `outside` before."""
    if plane.shape == (MATRIX, MATRIX):
        return plane
    side = max(plane.shape)
    square = np.full((side, side), outside, plane.dtype)
    top, left = ((side - n) // 2 for n in plane.shape)
    square[top:top + plane.shape[0], left:left + plane.shape[1]] = plane
    if interpolation is None:
        interpolation = cv2.INTER_AREA if side > MATRIX else cv2.INTER_LINEAR
    return cv2.resize(square, (MATRIX, MATRIX), interpolation=interpolation)


def resized(plane: Array, size: int) -> Array:
    if plane.shape[0] == size:
        return plane
    return cv2.resize(plane, (size, size), interpolation=cv2.INTER_AREA)
