"""Slices with their organs in colour."""
import cv2
import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import CLASSES, SMALL
from shared_data.pictures import contact_sheet

HUES = [20 * label for label in range(len(CLASSES))]  # OpenCV's, 0 to 179
COLOURS = cv2.cvtColor(np.array([[(hue, 220, 255) for hue in HUES]], np.uint8), cv2.COLOR_HSV2RGB)[0]
WINDOW_HU = (-160, 240)


def organ_overlay(hu_yx, labels_yx, spacing_yx, side=320):
    """RGB (side', side, 3) of a slice, each label filled in a colour of its own."""
    low, high = WINDOW_HU
    height = max(1, round(side * hu_yx.shape[0] * spacing_yx[0] / (hu_yx.shape[1] * spacing_yx[1])))
    grey = (np.clip((hu_yx - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    picture = cv2.cvtColor(cv2.resize(grey, (side, height)), cv2.COLOR_GRAY2RGB)
    labels = cv2.resize(labels_yx, (side, height), interpolation=cv2.INTER_NEAREST)
    blended = (0.4 * picture + 0.6 * COLOURS[labels]).astype(np.uint8)
    return np.where((labels > 0)[..., None], blended, picture)


def case_sheet(ct, label_maps, tiles=4):
    """Contact sheet of slices of a CT image, spread over the organs, and of the one with most of the small ones; a row
    for each {caption: labels (z, y, x)}."""
    hu, spacing_yx = sitk.GetArrayViewFromImage(ct), ct.GetSpacing()[1::-1]
    used = np.flatnonzero(sum((labels > 0).any((1, 2)) for labels in label_maps.values()))
    small = sum(np.isin(labels, SMALL).sum((1, 2)) for labels in label_maps.values())
    first, last = (used[0], used[-1]) if len(used) else (0, len(hu) - 1)
    places = [*np.linspace(first, last, tiles + 1)[1:-1], small.argmax() if small.any() else last]
    chosen = sorted({int(round(k)) for k in places})
    return contact_sheet([(organ_overlay(hu[k], labels[k], spacing_yx), f"{caption}, slice {k}")
                          for caption, labels in label_maps.items() for k in chosen], columns=len(chosen))
