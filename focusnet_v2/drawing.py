"""Slices with their organs in colour."""
import numpy as np
import SimpleITK as sitk

from shared_data.organ_pictures import organ_sheet

WINDOW_HU = (-160, 240)


def case_sheet(ct, label_maps, config, tiles=4):
    """Contact sheet of slices of a CT image, spread over the organs, and of the one with most of the small ones; a row
    for each {caption: labels (z, y, x)}."""
    hu, (x_mm, y_mm, _) = sitk.GetArrayViewFromImage(ct), ct.GetSpacing()
    used = np.flatnonzero(sum((labels > 0).any((1, 2)) for labels in label_maps.values()))
    small = sum(np.isin(labels, config.small_labels).sum((1, 2)) for labels in label_maps.values())
    first, last = (used[0], used[-1]) if len(used) else (0, len(hu) - 1)
    places = [*np.linspace(first, last, tiles + 1)[1:-1], small.argmax() if small.any() else last]
    chosen = sorted({int(round(k)) for k in places})
    low, high = WINDOW_HU
    unit = {k: (hu[k].astype(np.float32) - low) / (high - low) for k in chosen}
    return organ_sheet(unit, label_maps, chosen, dict(enumerate(config.classes)), aspect=y_mm / x_mm)
