"""An artificial abdomen with its spine: the cohort of retroln_nnunet."""
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from shared_data.named_types import Labels, Seed, Shape, Spacing, StrPath
from shared_data.volume import write_volume

SIDE_MM = 260.0
VERTEBRAE = ("T12", "L1", "L2", "L3", "L4", "L5")


def write_abdomen_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 96, slices: int = 64) -> None:
    """RetroLN's layout: CT/<case>_0000.nii.gz, masks/<case>.nii.gz, vertebrae/<case>/vertebrae_T12.nii.gz ... L5.

    Cases P1, P2, ...; size: pixels of a square slice of 260 mm; the slices cover 240 mm.
    """
    for number in range(1, patients + 1):
        spacing = (SIDE_MM / size, SIDE_MM / size, 240.0 / slices)
        hu, nodes, vertebrae = abdomen([seed, number], (slices, size, size), spacing)
        masks = {name: (vertebrae == label).astype(np.uint8) for label, name in enumerate(VERTEBRAE, 1)}
        for path, array in {f"CT/P{number}_0000.nii.gz": hu, f"masks/P{number}.nii.gz": nodes,
                            **{f"vertebrae/P{number}/vertebrae_{name}.nii.gz": masks[name] for name in masks}}.items():
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            image.SetOrigin((-SIDE_MM / 2, -SIDE_MM / 2, 30.0 * number))
            write_volume(image, Path(folder) / path)


def abdomen(seed: Seed, shape_zyx: Shape, spacing_xyz: Spacing) -> tuple[Labels, Labels, Labels]:
    """An enhanced abdomen: (HU int16, node mask uint8, vertebrae uint8 1-6 for T12-L5), all (z, y, x); z runs up.

    Nodes lie along aorta and vena cava, tubes in 3-D that look like nodes in a single slice; bowel lies in front.
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape_zyx
    z, y, x = np.meshgrid(np.arange(depth) * spacing_xyz[2], (np.arange(height) - height / 2) * spacing_xyz[1],
                          (np.arange(width) - width / 2) * spacing_xyz[0], indexing="ij", sparse=True)  # mm
    length = depth * spacing_xyz[2]
    nodes, vertebrae = (np.zeros(shape_zyx, np.uint8) for _ in range(2))

    def tube(at_x, at_y, radius_x, radius_y=None):
        return ((x - at_x) / radius_x) ** 2 + ((y - at_y) / (radius_y or radius_x)) ** 2 <= 1

    texture = ndimage.gaussian_filter(rng.standard_normal(shape_zyx).astype(np.float32), (1, 2, 2))
    body = tube(0, 0, rng.uniform(112, 122), rng.uniform(88, 96)) & (z >= 0)
    inner = tube(0, -6, 98, 74) & (z >= 0)
    hu = np.where(body, np.where(inner & (texture > texture.std()), 50.0, -100.0), -1000.0)
    shift, lordosis = rng.uniform(-8, 8), 6 * np.sin(np.pi * z / length)  # of the spine: sideways, forwards
    back = 34 - lordosis
    for side in (-1, 1):
        hu[tube(shift + side * 38, back + 2, 17, 20) & body] = 55  # psoas and paraspinal muscle
        hu[tube(side * 72, 18, 24, 28) & (z > 0.45 * length) & body] = 170  # kidney
    step = 0.92 * length / len(VERTEBRAE)
    for label in range(1, len(VERTEBRAE) + 1):
        top = 0.97 * length - (label - 1) * step
        level = (z < top) & (z > top - 0.82 * step)
        bone = (tube(shift, back, 22, 17) | (tube(shift, back + 38, 5, 16))) & level & body
        vertebrae[bone] = label
        hu[bone] = 240
    hu[tube(shift, back + 21, 8, 7) & body] = 20  # spinal canal
    vertebrae[hu == 20] = 0
    enhancement = rng.uniform(125, 155)
    front = back - 28
    hu[tube(shift + 12 + 3 * np.sin(z / 40), front, 9) & body] = enhancement + 25  # aorta, on the left
    hu[tube(shift - 14 + 3 * np.sin(z / 50), front, 11, 9) & body] = enhancement  # vena cava
    for side in (-1, 1):  # loops of bowel in front
        hu[tube(side * rng.uniform(20, 50) + 12 * np.sin(z / 25), front - 40, 13) & body] = 35
    free = inner & (hu < 100) & (vertebrae == 0)
    for _ in range(rng.integers(5, 10)):
        radius = rng.uniform(6, 14)  # mm, half the short axis
        centre = rng.uniform(0.15, 0.85) * length, rng.uniform(-16, 4), rng.uniform(-34, 34)
        ellipsoid = (((z - centre[0]) / (radius * rng.uniform(1, 1.5))) ** 2
                     + ((y - front - centre[1]) / radius) ** 2
                     + ((x - shift - centre[2]) / (radius * rng.uniform(0.9, 1.3))) ** 2 <= 1)
        nodes[ellipsoid & free] = 1
    hu[nodes > 0] = rng.uniform(85, 105)
    hu = ndimage.gaussian_filter(hu, (0.3, 0.5, 0.5)) + rng.normal(0, 10, shape_zyx)
    return np.clip(hu, -1024, 3071).astype(np.int16), nodes, vertebrae
