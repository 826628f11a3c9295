"""Where the small organs are, as the target of the localisation."""
from collections.abc import Sequence

import numpy as np

from shared_data.named_types import Floats, Labels


def organ_centres(labels: Labels, small: Sequence[int] = (2, 4, 5)) -> Floats:
    """Centroids (n_small, 3) of the labels `small` (PDDCA's unless given) in a label map (z, y, x), rounded half to
    even; NaN where missing."""
    centres = np.full((len(small), 3), np.nan)
    for i, label in enumerate(small):
        voxels = np.argwhere(labels == label)
        if len(voxels):
            centres[i] = np.round(voxels.mean(0))
    return centres


def heatmaps(centres: Floats, shape_zyx: Sequence[int], sigma: float = 5.0, offsets: str = "centred") -> Floats:
    """Gaussians (n, z, y, x) around centres (n, 3), float32, values under 0.01 cut; only on the centre's slice and its
    two neighbours; 0 for a missing organ. A centre may lie outside.

    offsets "original": the peak lies one voxel too low along y and x, and a centre in slice 0 gives an empty map.
    """
    maps = np.zeros((len(centres), *shape_zyx), np.float32)
    for heatmap, centre in zip(maps, centres):
        if np.isnan(centre).any() or (offsets == "original" and centre[0] == 0):
            continue
        z, y, x = centre - (0, 1, 1) if offsets == "original" else centre
        planes = np.arange(max(0, int(z) - 1), min(shape_zyx[0], int(z) + 2))
        squares = [(np.arange(n) - at) ** 2 for n, at in zip((shape_zyx[1], shape_zyx[2]), (y, x))]
        distance = (planes - z)[:, None, None] ** 2 + squares[0][:, None] + squares[1]
        values = np.exp(-distance / (2 * sigma ** 2))
        heatmap[planes] = np.where(values < 0.01, 0, values)
    return maps
