"""From Hounsfield units to the network's input: window, stored form, neighbouring slices. NumPy only."""
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared_data.named_types import Array, Floats

STEPS = 65535  # a stored slice is uint16: the windowed value times this


def window(hu: Array, center_hu: float = 40.0, width_hu: float = 400.0) -> Floats:
    """HU clipped to the window and scaled to [0, 1] (paper); integers become float64, as in the authors' code."""
    low = center_hu - width_hu / 2
    return (np.clip(hu, low, low + width_hu) - low) / width_hu


def to_8bit(unit: Floats) -> NDArray[np.uint8]:
    """[0, 1] -> uint8, truncated as in the authors' code."""
    return (unit * 255).astype(np.uint8)


def to_16bit(unit: Floats) -> NDArray[np.uint16]:
    """[0, 1] -> uint16, rounded; the form that training and prediction use."""
    return np.round(unit * STEPS).astype(np.uint16)


def with_context(slices: Sequence[Array] | Array, k: int, n: int) -> Array:
    """Slices k-n..k+n of a sequence (z, y, x) as channels (2n + 1, y, x); zeros beyond the ends (2.5-D)."""
    return np.stack([slices[i] if 0 <= i < len(slices) else np.zeros_like(slices[0])
                     for i in range(k - n, k + n + 1)])
