"""Slices with their organs in colour."""
from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import Config
from shared_data.named_types import Labels, Rgb
from shared_results.organ_pictures import organ_sheet

WINDOW_HU = (-160, 240)


def case_sheet(ct: sitk.Image, label_maps: Mapping[str, Labels], config: Config, tiles: int = 4) -> Rgb:
    """Contact sheet of slices of a CT image, spread over the organs, and of the one with most of the small ones; a row
    for each {caption: labels (z, y, x)}; what lies around the patient is left out."""
    hu, (x_mm, y_mm, _) = sitk.GetArrayViewFromImage(ct), ct.GetSpacing()
    used = np.flatnonzero(sum((labels > 0).any((1, 2)) for labels in label_maps.values()))
    small = sum(np.isin(labels, config.small_labels).sum((1, 2)) for labels in label_maps.values())
    first, last = (used[0], used[-1]) if len(used) else (0, len(hu) - 1)
    places = [*np.linspace(first, last, tiles + 1)[1:-1], small.argmax() if small.any() else last]
    chosen = sorted({int(round(k)) for k in places})
    low, high = WINDOW_HU
    patient = (hu[chosen] > low).any(0) | sum((labels[chosen] > 0).any(0) for labels in label_maps.values())
    pixels = np.argwhere(patient)
    y, x = [slice(*ends) for ends in zip(pixels.min(0), pixels.max(0) + 1)] if len(pixels) else [slice(None)] * 2
    unit = {k: (hu[k, y, x].astype(np.float32) - low) / (high - low) for k in chosen}
    label_maps = {caption: labels[:, y, x] for caption, labels in label_maps.items()}
    return organ_sheet(unit, label_maps, chosen, dict(enumerate(config.classes)), aspect=y_mm / x_mm)
