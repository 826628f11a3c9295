"""Artificial CT cohorts with known labels, in the on-disk layout of each project's real data.

    python -m shared_data.phantoms --kind neck --folder OUT --patients 12

They are for tests and for trying the programs; they support no claim about patients.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from shared_data.errors import run_script
from shared_data.named_types import Labels, Seed, Shape, Spacing, StrPath
from shared_data.phantoms_abdomen import write_abdomen_cohort
from shared_data.phantoms_chest import write_lidc_cohort, write_luna_cohort
from shared_data.phantoms_head import write_pddca_cohort, write_structseg_cohort
from shared_data.settings import at_least, parse_options
from shared_data.volume import write_volume

FIELD_OF_VIEW_MM = 150.0


def write_neck_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 128, slices: int = 24) -> None:
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


def neck(seed: Seed, shape_zyx: Shape, spacing_xyz: Spacing) -> tuple[Labels, Labels]:
    """An enhanced neck: (HU int16, node mask uint8), both (z, y, x).

    Nodes lie among glands and muscle, beside vessels: tubes in 3-D that look like nodes in a single slice.
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


COHORTS = {"neck": write_neck_cohort, "structseg": write_structseg_cohort, "pddca": write_pddca_cohort,
           "abdomen": write_abdomen_cohort, "lidc": write_lidc_cohort, "luna16": write_luna_cohort}


@dataclass(frozen=True)
class Options:
    folder: Path  # where to write the cohort
    kind: Literal["neck", "structseg", "pddca", "abdomen", "lidc", "luna16"] = "neck"  # which project's layout
    patients: int = 12  # number of patients
    seed: int = 0  # the same seed gives the same cohort
    size: int = 128  # pixels along x and y
    slices: int = 24  # slices of each CT

    def __post_init__(self) -> None:
        at_least(self, 0, "seed")
        if self.patients < 1 or self.size < 32 or self.slices < 4:
            raise ValueError("--patients must be at least 1, --size 32, --slices 4.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    COHORTS[options.kind](options.folder, options.patients, options.seed, options.size, options.slices)
    print(f"{options.patients} patients in {options.folder}")


if __name__ == "__main__":
    run_script(main)
