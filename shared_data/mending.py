"""A regular grid for slices that lie at several distances, or are shifted against each other by a tilted gantry."""
import math
from functools import lru_cache

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import shift as shifted

from shared_data.named_types import Floats


def even(steps: Floats) -> bool:
    """Whether steps (mm) between slices are equal, to a tenth."""
    return abs(steps - np.median(steps)).max() <= 0.1 * np.median(steps)


def gap_after(steps: Floats) -> int | None:
    """Number of the slice before a gap, of sorted slices with these steps (mm) between them; None where none is
    missing: the steps are even, or come in stretches of three and more, with one in between where they change."""
    if even(steps):
        return None
    changes = abs(np.diff(steps)) > 0.1 * np.minimum(steps[1:], steps[:-1])
    stretches = np.split(np.arange(len(steps)), np.flatnonzero(changes) + 1)

    def seam(i):
        if len(stretches[i]) > 1 or not 0 < i < len(stretches) - 1:
            return False
        low, high = sorted(steps[stretches[other][0]] for other in (i - 1, i + 1))
        return high > 1.1 * low and 0.9 * low < steps[stretches[i][0]] < 1.1 * high

    odd = [k for i, stretch in enumerate(stretches) if len(stretch) < 3 and not seam(i) for k in stretch]
    return max(odd, key=lambda k: steps[k], default=None)


def mended(image: sitk.Image, places: Floats) -> tuple[sitk.Image, str]:
    """(image on a regular grid, what was done) of a stack of parallel slices with the geometry of its first one.

    places (n, 3): where each slice lies from the first one on, along its rows, its columns and the normal, mm. Slices
    keep their planes where their distances are equal; otherwise the smallest distance becomes that of all. What no
    slice shows becomes the smallest value.
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
    margins = [(0, int(more)) for more in (high - low)[::-1]]
    fill = stack.min()

    @lru_cache(2)
    def plane(k):
        wide = np.pad(stack[k].astype(np.float32), margins, constant_values=fill)
        return shifted(wide, (moved[k] - low)[::-1], order=1, cval=fill) if (moved[k] != low).any() else wide

    result = np.empty((n_slices, *(np.add(stack.shape[1:], (high - low)[::-1]))), stack.dtype)
    for k, depth in enumerate(regular):
        upper = min(int(np.searchsorted(depths, depth - 1e-3 * step)), len(depths) - 1)
        share = 1.0 if upper == 0 else (depth - depths[upper - 1]) / (depths[upper] - depths[upper - 1])
        between = plane(upper) if share > 0.999 else share * plane(upper) + (1 - share) * plane(upper - 1)
        result[k] = np.round(between) if stack.dtype.kind in "iu" else between
    grid = sitk.GetImageFromArray(result)
    grid.SetSpacing((*spacing[:2], float(step)))
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([*low.tolist(), 0]))
    return grid, ", ".join(done)

