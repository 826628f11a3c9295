"""The colours of labels, and colour tables for 3D Slicer and ITK-SNAP."""
from collections.abc import Mapping

import cv2
import numpy as np

from shared_data.files import whole_file
from shared_data.named_types import StrPath

# 24 distinguishable colours, eight hues in three shades; label 0 is never drawn.
SHADES = ((235, 255), (110, 255), (255, 150))  # saturation, value
HSV = [(label * 3 % 8 * 22, *SHADES[label // 8 % 3]) for label in range(256)]
COLOURS = cv2.cvtColor(np.array([HSV], np.uint8), cv2.COLOR_HSV2RGB)[0]


def write_colour_tables(names: Mapping[int, str], stem: StrPath) -> None:
    """Write `<stem>.ctbl` (3D Slicer) and `<stem>.label` (ITK-SNAP) for {label: organ}, with the pictures' colours."""
    colours = {label: " ".join(map(str, COLOURS[label % len(COLOURS)].tolist())) for label in names}
    slicer = ["# 3D Slicer colour table: label, name, red, green, blue, opacity", "0 background 0 0 0 0",
              *(f"{label} {'_'.join(name.split())} {colours[label]} 255" for label, name in names.items())]
    snap = ["# ITK-SnAP Label Description File: label, red, green, blue, opacity, visible, mesh, name",
            '0 0 0 0 0 0 0 "Clear Label"',
            *(f'{label} {colours[label]} 1 1 1 "{name}"' for label, name in names.items())]
    for suffix, lines in ((".ctbl", slicer), (".label", snap)):
        with whole_file(f"{stem}{suffix}") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
