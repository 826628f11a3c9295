"""From Hounsfield units to what the network sees: window, storage, neighbours. NumPy only."""
import numpy as np

STEPS = 65535  # a stored slice is uint16: window value times this


def window(hu, center_hu=40.0, width_hu=400.0):
    """HU clipped to the window and scaled to [0, 1] (paper); float64 for whole numbers, as in the authors' code."""
    low = center_hu - width_hu / 2
    return (np.clip(hu, low, low + width_hu) - low) / width_hu


def to_8bit(unit):
    """[0, 1] -> uint8, truncated as in the authors' code."""
    return (unit * 255).astype(np.uint8)


def to_16bit(unit):
    """[0, 1] -> uint16, rounded; the form that training and prediction read."""
    return np.round(unit * STEPS).astype(np.uint16)


def with_context(slices, k, n):
    """Slices k-n..k+n of a sequence (z, y, x) as channels (2n + 1, y, x); zeros beyond the ends (2.5-D)."""
    return np.stack([slices[i] if 0 <= i < len(slices) else np.zeros_like(slices[0])
                     for i in range(k - n, k + n + 1)])
