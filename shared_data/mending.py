"""A regular grid for slices at unequal distances, or shifted against each other by a tilted gantry."""
import math
from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import shift as shifted

from shared_data.named_types import Floats


def even(steps: Floats) -> bool:
    """Whether the steps (mm) between slices are equal to within a tenth."""
    return abs(steps - np.median(steps)).max() <= 0.1 * np.median(steps)


def gap_after(steps: Floats) -> int | None:
    """Index of the slice before a gap, given the steps (mm) between sorted slices; None if no slice is missing.

    None is missing if the steps are even, or if they change only between stretches of at least three equal ones, where
    a single step of intermediate length may lie.
    """
    if even(steps):
        return None
    changes = abs(np.diff(steps)) > 0.1 * np.minimum(steps[1:], steps[:-1])
    stretches = np.split(np.arange(len(steps)), np.flatnonzero(changes) + 1)

    def is_seam(i):
        """Whether stretch i is the single step at which one distance gives way to another."""
        if len(stretches[i]) > 1 or not 0 < i < len(stretches) - 1:
            return False
        low, high = sorted((steps[stretches[i - 1][0]], steps[stretches[i + 1][0]]))
        return high > 1.1 * low and 0.9 * low < steps[stretches[i][0]] < 1.1 * high

    suspects = [k for i, stretch in enumerate(stretches) if len(stretch) < 3 and not is_seam(i) for k in stretch]
    return max(suspects, key=lambda k: steps[k], default=None)


def mended(image: sitk.Image, places: Floats) -> tuple[sitk.Image, str]:
    """(image on a regular grid, what was done) of a stack of parallel slices with the geometry of the first.

    places (n, 3): offset of each slice from the first along rows, columns and normal, mm. Evenly spaced slices keep
    their planes; others are resampled to the smallest distance between two. Voxels that no slice covers get the
    smallest value of the image.
    """
    spacing, stack, done = np.array(image.GetSpacing()), sitk.GetArrayViewFromImage(image), []
    depths, steps = places[:, 2], np.diff(places[:, 2])
    n_slices = len(stack) if even(steps) else round(depths[-1] / steps.min()) + 1
    regular, step = np.linspace(0, depths[-1], n_slices, retstep=True)
    if even(steps):
        depths = regular
    moved = places[:, :2] / spacing[:2]  # pixels
    if np.ptp(moved, axis=0).max() > 0.5:
        degrees = math.degrees(math.atan2(np.linalg.norm(places[-1, :2]), depths[-1]))
        done.append(f"gantry tilt of {degrees:.1f} degrees sheared back")
    else:
        moved[:] = 0
    if not even(steps):
        distances = dict.fromkeys(f"{mm:.3g}" for mm in steps)
        done.append(f"slices {', '.join(distances)} mm apart resampled to {step:.4g} mm")
    low, high = np.floor(moved.min(0)).astype(int), np.ceil(moved.max(0)).astype(int)
    margins = [(0, int(margin)) for margin in (high - low)[::-1]]
    fill = stack.min()

    @lru_cache(2)
    def plane(k):
        wide = np.pad(stack[k].astype(np.float32), margins, constant_values=fill)
        return shifted(wide, (moved[k] - low)[::-1], order=1, cval=fill) if (moved[k] != low).any() else wide

    result = np.empty((n_slices, *(np.add(stack.shape[1:], (high - low)[::-1]))), stack.dtype)
    for k, depth in enumerate(regular):
        upper = min(int(np.searchsorted(depths, depth - 1e-3 * step)), len(depths) - 1)
        weight = 1.0 if upper == 0 else (depth - depths[upper - 1]) / (depths[upper] - depths[upper - 1])
        values = plane(upper) if weight > 0.999 else weight * plane(upper) + (1 - weight) * plane(upper - 1)
        result[k] = np.round(values) if stack.dtype.kind in "iu" else values
    grid = sitk.GetImageFromArray(result)
    grid.SetSpacing((*spacing[:2], float(step)))
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([*low.tolist(), 0]))
    return grid, ", ".join(done)

