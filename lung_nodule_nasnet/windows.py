"""Small windows of native pixels: what networks see that learnt from crops around nodules, not from whole slices."""
import cv2
import numpy as np

from lung_nodule_nasnet.two_means import two_means_centres

NEIGHBOURHOOD = 128  # pixels along a side of the square whose grey values scale a window


def scaled(crop):
    """A crop (Y, X) of whole numbers, HU or any linear form of them, as float32: the centres of its dark and its bright
    class (lung and soft tissue) become 0 and 1; cut to -1..2."""
    low, high = two_means_centres(crop)
    return np.clip((crop - low) / max(high - low, 1e-6), -1, 2).astype(np.float32)


def starts(length, window, step):
    """Where windows along a side of `length` pixels begin: every `step`, the last one at the end."""
    return sorted({*range(0, length - window, step), max(0, length - window)})


def enlarged(windows, size):
    """(n, size, size) float32 of windows (n, w, w), linear."""
    return np.stack([cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR) for window in windows])
