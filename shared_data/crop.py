"""Centre crops of slices and their inverse; an axis shorter than the crop is padded."""
from collections.abc import Sequence

import numpy as np

from shared_data.named_types import Array, Box


def centre_crop(volume: Array, size: int, fill: float = 0) -> Array:
    """The central size x size pixels of (..., y, x), padded with `fill`."""
    source, target = crop_boxes(volume.shape[-2:], size)
    cropped = np.full((*volume.shape[:-2], size, size), fill, volume.dtype)
    cropped[..., target[0], target[1]] = volume[..., source[0], source[1]]
    return cropped


def undo_crop(cropped: Array, shape_yx: Sequence[int]) -> Array:
    """The inverse of `centre_crop`: (..., *shape_yx), 0 outside the crop."""
    source, target = crop_boxes(shape_yx, cropped.shape[-1])
    volume = np.zeros((*cropped.shape[:-2], *shape_yx), cropped.dtype)
    volume[..., source[0], source[1]] = cropped[..., target[0], target[1]]
    return volume


def crop_boxes(shape_yx: Sequence[int], size: int) -> tuple[Box, Box]:
    """(slices of the whole plane, slices of the crop) that hold the same pixels."""
    source, target = [], []
    for length in shape_yx:
        start = (length - size) // 2  # negative: padding
        source.append(slice(max(0, start), min(length, start + size)))
        target.append(slice(source[-1].start - start, source[-1].stop - start))
    return tuple(source), tuple(target)
