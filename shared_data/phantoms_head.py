"""An artificial head and upper neck: the cohorts of sepnet (StructSeg's layout) and focusnet_v2 (PDDCA's)."""
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from shared_data.named_types import Labels, Seed, Shape, Spacing, StrPath
from shared_data.volume import write_volume

HEAD_FIELD_MM, HEAD_HEIGHT_MM = 210.0, 104.0
GLANDS = (23, 24)  # labels of the submandibular glands where they are drawn
# Organs of StructSeg 2019, task 1: labels (left, right) or (label,); centre, as an offset from the middle of the lowest
# slice to the left, to the back and up, mm; radii along the same axes, mm; HU. Later organs cover earlier ones.
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

PDDCA_LABELS = {"BrainStem": (1,), "Chiasm": (8,), "Mandible": (21, 22), "OpticNerve_L": (6,), "OpticNerve_R": (7,),
                "Parotid_L": (12,), "Parotid_R": (13,), "Submandibular_L": GLANDS[:1], "Submandibular_R": GLANDS[1:]}
# Structures without a contour, by patient number modulo 6, as real cohorts lack some.
PDDCA_MISSING = {2: ("Submandibular_R",), 4: ("Mandible", "Submandibular_L"), 0: ("Chiasm",)}


def write_structseg_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 96, slices: int = 32) -> None:
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


def write_pddca_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 96, slices: int = 32) -> None:
    """FocusNet's layout: `<case>/img.nrrd` and `<case>/structures/<name>.nrrd`, cases P1, P2, ...

    Every second patient lacks some structures. size: pixels of a square slice of 210 mm; the slices share 104 mm.
    """
    spacing = (HEAD_FIELD_MM / size, HEAD_FIELD_MM / size, HEAD_HEIGHT_MM / slices)
    for number in range(1, patients + 1):
        hu, labels = head([seed, number], (slices, size, size), spacing, GLANDS)
        files = {f"structures/{name}.nrrd": np.isin(labels, ids).astype(np.uint8) for name, ids in PDDCA_LABELS.items()
                 if name not in PDDCA_MISSING.get(number % 6, ())}
        for name, array in {"img.nrrd": hu, **files}.items():
            image = sitk.GetImageFromArray(array)
            image.SetSpacing(spacing)
            image.SetOrigin((-HEAD_FIELD_MM / 2, -HEAD_FIELD_MM / 2, 10.0 * number))
            write_volume(image, Path(folder) / f"P{number}" / name)


def head(seed: Seed, shape_zyx: Shape, spacing_xyz: Spacing, glands: tuple[int, int] = (0, 0)) -> tuple[Labels, Labels]:
    """Jaw to brow with every organ: (HU int16, labels 0 to 22 uint8), both (z, y, x), x to the left.

    Muscles, vessels and other bones look like the organs beside them; only the position tells left from right.
    glands: labels of the left and right submandibular gland, which StructSeg does not have.
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
    labels = np.zeros(shape_zyx, np.uint8)
    for side, label in zip((1, -1), glands):
        hu[ellipsoid((side * 31, -62, 78), (17, 26, 16)) & body] = -80  # fat of the orbit
        hu[tube((side * 42, 24, 62), (side * 16, 12, 64), 10)] = 480  # petrous bone
        hu[tube((side * 60, -18, 62), (side * 48, -62, 62), 5) & body] = 500  # cheek bone
        hu[tube((side * 30, 0, 0), (side * 30, 0, 55), 5)] = 140  # carotid artery
        gland = ellipsoid((side * 32, -30, 14), (9, 12, 10))
        hu[gland], labels[gland] = 60, label
    hu[tube((0, 18, 0), (0, 18, 48), 17)] = 320  # vertebrae
    hu[tube((0, 22, 0), (0, 22, 52), 10)] = 12  # spinal canal

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
