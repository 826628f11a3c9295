"""Small windows of native pixels: what networks see that learnt from crops around nodules, not from whole slices."""
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.lungs import AIR_HU
from lung_nodule_nasnet.two_means import two_means_centres
from shared_data.named_types import Array, Floats, Mask

NEIGHBOURHOOD = 128  # pixels along a side of the square whose grey values scale a window
SPACING_MM = (0.5, 1.0)  # pixels of other sizes are resampled to
USUAL_MM = 0.7
LEAST_HU = 300  # between lung and soft tissue; closer classes are noise
BATCH = 16  # windows at a time


def scaled(crop: Array, least: float = 1) -> Floats:
    """A crop (Y, X) of whole numbers, HU or any linear form of them, as float32: the centres of its dark and its bright
    class (lung and soft tissue) become 0 and 1; cut to -1..2. Centres closer than `least` are noise of one class."""
    low, high = two_means_centres(crop)
    return np.clip((crop - low) / max(high - low, least), -1, 2).astype(np.float32)


def enlarged(windows: Sequence[Floats], size: int) -> Floats:
    """(n, size, size) float32 of windows (n, w, w), linear."""
    return np.stack([cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR) for window in windows])


def probability_map(forward: Callable[[Floats], Floats], plane: Array, wanted: Mask, config: Config,
                    least: float = 1) -> Floats:
    """Nodule probability (Y, X) float32 of a slice: the mean over overlapping windows, weighted to their middles.

    forward: windows (BATCH, size, size) -> probabilities of the same shape. plane: whole numbers (Y, X), both sides at
    least `config.window`. wanted: (Y, X) boolean; windows without one of its pixels are not looked at, and it is 0
    outside of it. least: of `scaled`.
    """
    side = config.window or 0
    places = [(top, left) for top in starts(plane.shape[0], side) for left in starts(plane.shape[1], side)
              if wanted[top:top + side, left:left + side].any()]
    hat = 1 - np.abs(np.arange(side) - (side - 1) / 2) / (side / 2)
    weight = np.outer(hat, hat).astype(np.float32)
    total, weights = np.zeros(plane.shape, np.float32), np.zeros(plane.shape, np.float32)
    for first in range(0, len(places), BATCH):
        part = places[first:first + BATCH]
        batch = np.zeros((BATCH, config.size, config.size), np.float32)
        batch[:len(part)] = enlarged([window_at(plane, top, left, side, least) for top, left in part], config.size)
        for (top, left), probability in zip(part, forward(batch)):
            window = (slice(top, top + side), slice(left, left + side))
            total[window] += weight * cv2.resize(probability, (side, side), interpolation=cv2.INTER_AREA)
            weights[window] += weight
    return total / np.maximum(weights, 1e-6) * wanted


def starts(length: int, side: int) -> list[int]:
    """Where windows along `length` pixels begin: a third overlaps, the last one ends at the end."""
    return sorted({*range(0, length - side, 2 * side // 3), length - side})


def window_at(plane: Array, top: int, left: int, side: int, least: float) -> Floats:
    """A window, scaled by the classes of its neighbourhood within the slice."""
    rows, columns = (slice(start, start + NEIGHBOURHOOD) for start in (
        max(0, min(place - (NEIGHBOURHOOD - side) // 2, length - NEIGHBOURHOOD))
        for place, length in zip((top, left), plane.shape)))
    return scaled(plane[rows, columns], least)[top - rows.start:top - rows.start + side,
                                               left - columns.start:left - columns.start + side]


def ct_map(forward: Callable[[Floats], Floats], hu: Array, lungs: Array, spacing_yx: Sequence[float],
           config: Config) -> Floats:
    """`probability_map` of a slice in HU within its lungs (Y, X); pixels of unusual size are resampled on the way."""
    shape = hu.shape
    low, high = SPACING_MM
    factors = [1 if low <= spacing <= high else spacing / USUAL_MM for spacing in spacing_yx]
    resampled = [max(1, round(n * factor)) for n, factor in zip(shape, factors)]
    hu, lungs = cv2.resize(hu, resampled[::-1], interpolation=cv2.INTER_LINEAR), cv2.resize(
        lungs.astype(np.uint8), resampled[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    missing = [(0, max(0, NEIGHBOURHOOD - n)) for n in resampled]
    hu, lungs = np.pad(hu, missing, constant_values=AIR_HU), np.pad(lungs, missing)
    values = probability_map(forward, hu, lungs > 0, config, LEAST_HU)[:resampled[0], :resampled[1]]
    return np.asarray(cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
