"""Artificial CT cohorts with a known answer, in the on-disk layout of each project's real data.

    python -m shared_data.phantoms --kind neck --folder OUT --patients 12

Drawn, not measured: good for trying the programs and for tests, not for any claim about patients.
"""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from shared_data.errors import run_script
from shared_data.phantoms_abdomen import write_abdomen_cohort
from shared_data.phantoms_chest import write_lidc_cohort, write_luna_cohort
from shared_data.settings import parse_options
from shared_data.volume import write_volume

FIELD_OF_VIEW_MM = 150.0


def write_neck_cohort(folder, patients, seed=0, size=128, slices=24):
    """S-Net's layout: `<patient>/IM0001.nrrd` and `<patient>/Segmentation.nrrd`, patients P1, P2, ...

    size: pixels of a square slice of 150 mm; slices are 3 mm apart.
    """
    for number in range(1, patients + 1):
        spacing = (FIELD_OF_VIEW_MM / size, FIELD_OF_VIEW_MM / size, 3.0)
        hu, nodes = neck([seed, number], (slices, size, size), spacing)
        for name, array in (("IM0001.nrrd", hu), ("Segmentation.nrrd", nodes)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            image.SetOrigin((-FIELD_OF_VIEW_MM / 2, -FIELD_OF_VIEW_MM / 2, 30.0 * number))
            write_volume(image, Path(folder) / f"P{number}" / name)


def neck(seed, shape_zyx, spacing_xyz):
    """An enhanced neck: (HU int16, node mask uint8), both (z, y, x).

    Nodes lie beside vessels that look like them in one slice and are tubes in 3-D; glands and muscle surround them.
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape_zyx
    z, y, x = np.meshgrid(np.arange(depth) * spacing_xyz[2], (np.arange(height) - height / 2) * spacing_xyz[1],
                          (np.arange(width) - width / 2) * spacing_xyz[0], indexing="ij", sparse=True)  # mm
    length = depth * spacing_xyz[2]
    nodes = np.zeros(shape_zyx, np.uint8)

    def tube(at_x, at_y, radius_x, radius_y=None):
        return ((x - at_x) / radius_x) ** 2 + ((y - at_y) / (radius_y or radius_x)) ** 2 <= 1

    body = tube(0, 0, rng.uniform(58, 66), rng.uniform(48, 56)) & (z >= 0)
    inner = tube(0, 0, 53, 43) & (z >= 0)
    texture = ndimage.gaussian_filter(rng.standard_normal(shape_zyx).astype(np.float32), (1, 3, 3))
    hu = np.where(body, np.where(inner & (texture < 0.6 * texture.std()), 55.0, -95.0), -1000.0)
    hu[tube(0, 18, 13, 11) & body] = 350  # vertebra
    hu[tube(0, 31, 7, 6) & body] = 25  # spinal canal
    hu[tube(0, -22, 9, 8) & body] = -1000  # airway
    hard = (hu > 200) | (hu < -500)
    enhancement = rng.uniform(120, 165)
    for side in (-1, 1):
        sway = 3 * np.sin(z / 18 + rng.uniform(0, 6))
        hu[tube(side * (23 + sway), -6, 3.4) & body] = enhancement + 15  # carotid artery
        hu[tube(side * (31 + sway), 1, rng.uniform(4.5, 6.5)) & body] = enhancement  # jugular vein
        gland = tube(side * 32, -24, 9, 7) & (np.abs(z - 0.75 * length) < 0.2 * length) & body
        hu[gland] = 75  # submandibular gland
    vessels = hu > 100
    for _ in range(rng.integers(4, 10)):
        side, radius = rng.choice([-1, 1]), rng.uniform(2.8, 7)  # radius: mm, half the short axis
        centre = rng.uniform(0.1, 0.9) * length, rng.uniform(-14, 22), side * rng.uniform(28, 46)
        ellipsoid = (((z - centre[0]) / (radius * rng.uniform(1, 1.6))) ** 2 + ((y - centre[1]) / radius) ** 2
                     + ((x - centre[2]) / (radius * rng.uniform(0.9, 1.3))) ** 2 <= 1)
        node = ellipsoid & inner & ~vessels & ~hard
        nodes[node] = 1
        hu[node] = rng.uniform(92, 112)
    hu = ndimage.gaussian_filter(hu, (0.3, 0.6, 0.6)) + rng.normal(0, 10, shape_zyx)
    return np.clip(hu, -1024, 3071).astype(np.int16), nodes


HEAD_FIELD_MM, HEAD_HEIGHT_MM = 210.0, 104.0
# Organs of StructSeg 2019 task 1: label (left, right) or (label,), centre from the middle of the lowest slice to the
# left, to the back and up, radii along the same axes, all in mm, and HU. Later ones lie on top.
HEAD_ORGANS = (
    ((9, 10), (37, -8, 72), (18, 27, 17), 32),  # temporal lobes
    ((1,), (0, 15, 70), (12, 10, 20), 26),  # brain stem
    ((20,), (0, 22, 22), (6, 6, 28), 40),  # spinal cord
    ((2, 3), (31, -68, 78), (12, 12, 12), 12),  # eyes
    ((4, 5), (31, -77, 78), (5, 4, 5), 95),  # lenses
    ((8,), (0, -27, 82), (8, 5, 4), 38),  # optic chiasm
    ((11,), (0, -24, 71), (6, 5, 5), 65),  # pituitary
    ((12, 13), (55, 8, 38), (9, 14, 17), -10),  # parotids
    ((14, 15), (26, 17, 62), (6, 5, 5), 650),  # inner ears
    ((16, 17), (39, 15, 62), (6, 6, 6), -350),  # middle ears
    ((18, 19), (51, -9, 58), (7, 6, 6), 450),  # temporo-mandibular joints
)


def write_structseg_cohort(folder, patients, seed=0, size=96, slices=32):
    """SepNet's layout: `<1, 2, ...>/data.nii.gz` and `label.nii.gz`, labels 0 to 22.

    size: pixels of a square slice of 210 mm; the slices share 104 mm.
    """
    spacing = (HEAD_FIELD_MM / size, HEAD_FIELD_MM / size, HEAD_HEIGHT_MM / slices)
    for number in range(1, patients + 1):
        hu, labels = head([seed, number], (slices, size, size), spacing)
        for name, array in (("data.nii.gz", hu), ("label.nii.gz", labels)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            image.SetOrigin((-HEAD_FIELD_MM / 2, -HEAD_FIELD_MM / 2, 10.0 * number))
            write_volume(image, Path(folder) / str(number) / name)


def head(seed, shape_zyx, spacing_xyz):
    """Jaw to brow: (HU int16, labels 0 to 22 uint8), both (z, y, x) with x to the left; every organ is there.

    Muscles, vessels and other bone look like the organs they lie beside; side is told by position alone.
    """
    rng = np.random.default_rng(seed)
    scale, shift = rng.uniform(0.94, 1.05), rng.uniform(-4, 4, 2)
    axes = [(np.arange(n) + 0.5) * mm for n, mm in zip(shape_zyx, spacing_xyz[::-1])]
    z = axes[0][:, None, None]
    y = (axes[1][None, :, None] - axes[1].mean() - shift[0]) / scale
    x = (axes[2][None, None, :] - axes[2].mean() - shift[1]) / scale

    def ellipsoid(centre, radii):
        return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre, radii)) <= 1

    def tube(start, stop, radius):
        """Around the line between two points, given as (x, y, z)."""
        start, way = np.array(start), np.subtract(stop, start)
        at = sum((a - s) * w for a, s, w in zip((x, y, z), start, way)) / (way @ way)
        at = np.clip(at, 0, 1)
        return sum((a - s - at * w) ** 2 for a, s, w in zip((x, y, z), start, way)) <= radius ** 2

    narrow = np.where(z < 45, 0.93, 1.0)  # the neck
    body = (x / (73 * narrow)) ** 2 + (y / (92 * narrow)) ** 2 <= 1
    inner = (x / (66 * narrow)) ** 2 + (y / (85 * narrow)) ** 2 <= 1
    skull = ellipsoid((0, 12, 85), (66, 76, 45))
    texture = ndimage.gaussian_filter(rng.standard_normal(shape_zyx), (1, 2, 2))
    hu = np.where(body, np.where(inner & (texture < 0.5 * texture.std()), 55.0, -90.0), -1000.0)
    hu[skull & body] = 900
    hu[ellipsoid((0, 12, 85), (60, 70, 39))] = 34  # brain
    hu[tube((0, -38, 0), (0, -38, 52), 9)] = -1000  # airway
    for side in (-1, 1):
        hu[ellipsoid((side * 31, -62, 78), (17, 26, 16)) & body] = -80  # fat of the orbit
        hu[tube((side * 42, 24, 62), (side * 16, 12, 64), 10)] = 480  # petrous bone
        hu[tube((side * 60, -18, 62), (side * 48, -62, 62), 5) & body] = 500  # cheek bone
        hu[tube((side * 30, 0, 0), (side * 30, 0, 55), 5)] = 140  # carotid artery
        hu[ellipsoid((side * 32, -30, 14), (9, 12, 10))] = 60  # submandibular gland
    hu[tube((0, 18, 0), (0, 18, 48), 17)] = 320  # vertebrae
    hu[tube((0, 22, 0), (0, 22, 52), 10)] = 12  # spinal canal
    labels = np.zeros(shape_zyx, np.uint8)

    def draw(label, mask, value):
        labels[mask], hu[mask] = label, value

    for pair, centre, radii, value in HEAD_ORGANS:
        for label, side in zip(pair, (1, -1)):
            moved = np.multiply(centre, (side, 1, 1)) + rng.uniform(-1.5, 1.5, 3)
            draw(label, ellipsoid(moved, np.multiply(radii, rng.uniform(0.92, 1.1, 3))), value)
    for nerve, mandible, side in ((6, 21, 1), (7, 22, -1)):
        draw(nerve, tube((side * 30, -55, 78), (side * 8, -30, 81), rng.uniform(3, 3.6)), 30)
        jaw = (tube((side * 50, -14, 24), (side * 51, -13, 50), 6) | tube((side * 50, -14, 22), (side * 24, -62, 22), 6)
               | tube((side * 24, -62, 22), (0, -72, 22), 6))
        draw(mandible, jaw & (side * x > 0), 750)
    hu = ndimage.gaussian_filter(hu, (0.3, 0.5, 0.5)) + rng.normal(0, 10, shape_zyx)
    return np.clip(hu, -1024, 3071).astype(np.int16), labels


COHORTS = {"neck": write_neck_cohort, "structseg": write_structseg_cohort, "abdomen": write_abdomen_cohort,
           "lidc": write_lidc_cohort, "luna16": write_luna_cohort}


@dataclass(frozen=True)
class Options:
    folder: Path  # where the cohort is written
    kind: Literal["neck", "structseg", "abdomen", "lidc", "luna16"] = "neck"  # which project's layout
    patients: int = 12  # number of patients
    seed: int = 0  # same seed, same cohort
    size: int = 128  # pixels along x and y
    slices: int = 24  # slices of each CT

    def __post_init__(self):
        if min(self.patients, self.size // 32, self.slices // 4) < 1:
            raise ValueError("--patients must be at least 1, --size 32, --slices 4.")


def main(argv=None):
    options = parse_options(Options, argv, __doc__)
    COHORTS[options.kind](options.folder, options.patients, options.seed, options.size, options.slices)
    print(f"{options.patients} patients in {options.folder}")


if __name__ == "__main__":
    run_script(main)
