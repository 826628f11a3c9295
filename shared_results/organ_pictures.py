"""Slices with their organs in colour, above a legend."""
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from shared_data.colour_tables import COLOURS
from shared_data.named_types import Floats, Labels, Rgb
from shared_results.pictures import contact_sheet, magnified

SIDE = 320  # pixels of width
ENTRY = (20, 160)  # pixels of a legend's entry, y and x


def organ_overlay(unit_yx: Floats, labels_yx: Labels, aspect: float = 1.0) -> Rgb:
    """RGB (height, SIDE, 3) of a slice in [0, 1], each label filled with its colour; aspect: a pixel's height over its
    width."""
    picture = magnified(unit_yx, SIDE, aspect)
    labels = cv2.resize(labels_yx.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    blended = (0.4 * picture + 0.6 * COLOURS[labels]).astype(np.uint8)
    return np.where((labels > 0)[..., None], blended, picture)


def organ_sheet(unit_zyx: Floats | Mapping[int, Floats], label_maps: Mapping[str, Labels], chosen: Sequence[int],
                names: Mapping[int, str], aspect: float = 1.0, below: Sequence[tuple[Rgb, str]] = ()) -> Rgb:
    """Contact sheet of the slices `chosen`: a row for each {caption: labels (z, y, x)}, then the (RGB, caption) pairs
    `below`, then a legend of the labels shown; names: {label: organ}."""
    pictures = [(organ_overlay(unit_zyx[k], labels[k], aspect), f"{caption}, slice {k}")
                for caption, labels in label_maps.items() for k in chosen]
    sheet = contact_sheet([*pictures, *below], columns=len(chosen))
    shown = np.unique(np.concatenate([labels[k].ravel() for labels in label_maps.values() for k in chosen]))
    return np.concatenate([sheet, legend({label: names[label] for label in shown if label}, sheet.shape[1])])


def legend(names: Mapping[int, str], width: int) -> Rgb:
    """RGB (height, `width`, 3): the colour and the organ of each {label: organ}."""
    height, columns = ENTRY[0], max(1, width // ENTRY[1])
    strip = np.zeros((height * math.ceil(len(names) / columns), width, 3), np.uint8)
    for i, (label, name) in enumerate(names.items()):
        y, x = i // columns * height, i % columns * ENTRY[1] + 6
        strip[y + 4:y + 16, x:x + 12] = COLOURS[label]
        cv2.putText(strip, name, (x + 18, y + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return strip
