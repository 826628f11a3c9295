"""Is the head found? `seen_box` on real CTs as they are, and with a couch, a head rest and shoulders drawn in.

    python -m tests.bench.focusnet_head --data open-kbp [--every 5]

Prints for the patients the share of the worst organ's voxels within the box, and the sides of the box in mm.
"""
import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import Config
from focusnet_v2.grids import seen_box
from shared_data.errors import InputError
from shared_data.openkbp import ORGANS, find_cases, read_case


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=1)
    options = parser.parse_args()
    rows = []
    for _, folder in find_cases(options.data)[::options.every]:
        try:
            ct, labels, *_ = read_case(folder, ORGANS)
        except InputError:
            continue
        hu, labels, spacing = sitk.GetArrayFromImage(ct), sitk.GetArrayFromImage(labels), ct.GetSpacing()
        rows.append([*measure(hu, labels, spacing), *measure(with_couch(hu, spacing), labels, spacing)])
    print(f"{len(rows)} patients: least, median and largest of")
    values = np.array(rows)
    for name, column in zip(("share of the worst organ inside", "box along y, mm", "box along x, mm"), values.T):
        print(f"{name:32s} {np.percentile(column, [0, 50, 100]).round(2)}")
    print(f"organs inside whole: {(values[:, 0] == 1).sum()}; with couch, head rest and shoulders: "
          f"{(values[:, 3] == 1).sum()}, area {(values[:, 4] * values[:, 5] / values[:, 1] / values[:, 2]).mean():.3f} "
          "times as large")


def measure(hu, labels, spacing_xyz):
    """(share of the worst organ within the box, its sides along y and x in mm)."""
    config = Config(spacing_xyz=spacing_xyz, patch_zyx=(40, 16, 16), box_zyx=(8, 16, 16))
    (_, y, x), (_, height, width) = seen_box(hu, config)
    inside = labels[:, max(0, y):y + height, max(0, x):x + width]
    shares = [(inside == c).sum() / (labels == c).sum() for c in np.unique(labels) if c]
    return min(shares), height * spacing_xyz[1], width * spacing_xyz[0]


def with_couch(hu, spacing_xyz):
    """A copy with a bright couch 450 mm wide behind the body, rails on it, a head rest that touches the upper 100 mm,
    and shoulders with bones in the lowest 60 mm."""
    hu = hu.copy()
    mm_x, mm_y, mm_z = spacing_xyz
    _, n_y, n_x = hu.shape
    rows = np.flatnonzero((hu > -300).any((0, 2)))
    back, middle = rows[-1], (rows[0] + rows[-1]) // 2
    at, half = min(n_y - 3, back + 2), round(225 / mm_x)
    left, right = max(0, n_x // 2 - half), min(n_x, n_x // 2 + half)
    hu[:, at, left:right] = np.maximum(hu[:, at, left:right], 300)
    hu[:, at + 1, left:left + 3] = hu[:, at + 1, right - 3:right] = 900
    for column in (n_x // 2 - round(60 / mm_x), n_x // 2 + round(60 / mm_x)):
        rest = hu[-round(100 / mm_z):, max(0, back - 2):at + 1, column]
        rest[:] = np.maximum(rest, 350)
    y, x = np.mgrid[:n_y, :n_x]
    across = (x - n_x // 2) * mm_x
    trunk = ((y - middle) * mm_y / 90) ** 2 + (across / 240) ** 2 < 1
    bones = ((y - middle) * mm_y / 22) ** 2 + ((abs(across) - 190) / 22) ** 2 < 1
    for plane in hu[:round(60 / mm_z)]:
        plane[trunk & (plane < -300)] = 20
        plane[bones & (plane < 300)] = 700
    return hu


if __name__ == "__main__":
    main()
