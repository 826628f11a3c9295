"""Zoom and rotation of patches, on the device, in one resampling step."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from focusnet_v2.config import Config
from shared_data.named_types import Array, Floats


def draw_theta(rng: np.random.Generator, config: Config, in_plane_zoom: float) -> Floats:
    """The affine matrix (3, 4) of one patch, for `resample_patches`."""
    zoom_zyx = 1 + rng.uniform(-1, 1, 3) * (config.zoom, in_plane_zoom, in_plane_zoom)
    degrees_zyx = rng.uniform(-1, 1, 3) * (config.rotate_z, config.rotate_xy, config.rotate_xy)
    if config.affine_order == "original":
        return original_theta(zoom_zyx, degrees_zyx)
    extent_zyx = np.array(config.patch_zyx) * config.spacing_xyz[::-1]
    return named_theta(zoom_zyx, degrees_zyx, extent_zyx)


def named_theta(zoom_zyx: Sequence[float] | Array, degrees_zyx: Sequence[float] | Array,
                extent_zyx: Sequence[float] | Array = (1, 1, 1)) -> Floats:
    """Output to input coordinates, (x, y, z) from -1 to 1: each zoom acts on the axis it names (above 1: more is seen),
    each angle turns about the axis it names. extent_zyx: of the patch in mm, so that nothing is sheared."""
    matrix = _turns(degrees_zyx) @ np.diag(np.array(zoom_zyx)[[0, 2, 1]])
    order = [1, 2, 0]  # components (z, x, y) -> (x, y, z)
    matrix = matrix[np.ix_(order, order)]
    half = np.array(extent_zyx, float)[::-1]
    return np.concatenate([matrix * half / half[:, None], np.zeros((3, 1))], axis=1)


def original_theta(zoom_zyx: Sequence[float] | Array, degrees_zyx: Sequence[float] | Array) -> Floats:
    """The authors' matrix: made for (z, x, y), used as (x, y, z). z's zoom acts on x, x's on y, y's on z."""
    matrix = _turns(degrees_zyx) @ np.diag(np.array(zoom_zyx)[[0, 2, 1]])
    return np.concatenate([matrix, np.zeros((3, 1))], axis=1)


def _turns(degrees_zyx):
    """Rotations about z, x, y on components (z, x, y)."""
    (cz, cy, cx), (sz, sy, sx) = np.cos(np.radians(degrees_zyx)), np.sin(np.radians(degrees_zyx))
    return (np.array([[1, 0, 0], [0, cz, -sz], [0, sz, cz]]) @ np.array([[cx, 0, sx], [0, 1, 0], [-sx, 0, cx]])
            @ np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]))


def resample_patches(theta: Tensor, image: Tensor, label: Tensor, heatmap: Tensor | None = None,
                     align_corners: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """Image (B, 1, Z, Y, X) trilinear with border padding, label (B, 1, Z, Y, X) nearest, heatmap (B, C, Z, Y, X)
    trilinear, both with 0 outside; theta (B, 3, 4). Types stay. align_corners: as PyTorch 1.0 did.

    The grid is computed once for the three.
    """
    grid = F.affine_grid(theta.to(image.dtype), list(image.shape), align_corners=align_corners)
    image = F.grid_sample(image, grid, padding_mode="border", align_corners=align_corners)
    moved = F.grid_sample(label.to(image.dtype), grid, mode="nearest", align_corners=align_corners).to(label.dtype)
    if heatmap is not None:
        heatmap = F.grid_sample(heatmap, grid, align_corners=align_corners)
    return image, moved, heatmap


def augment(batch: dict[str, Any], config: Config) -> dict[str, Any]:
    """A batch of `PatchDataset` on its device, moved by its "theta"."""
    if not config.augment:
        return batch
    image, label, heatmap = resample_patches(batch["theta"], batch["image"], batch["label"], batch.get("heatmap"),
                                             config.affine_order == "original")
    moved = {"image": image, "label": label} | ({"heatmap": heatmap} if heatmap is not None else {})
    return {**batch, **moved}
