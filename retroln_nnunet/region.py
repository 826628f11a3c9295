"""The region around the retroperitoneal nodes, found from the vertebrae; voxel indices count from 0 in (x, y, z)."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from retroln_nnunet.config import VERTEBRAE, Config, RegionConfig
from shared_data.errors import InputError
from shared_data.named_types import Array
from shared_data.volume import SUFFIXES, Grid, check_same_grid, open_volume

Located = dict[str, Any]  # a region: `start_xyz`, `size_xyz`, ..., see `crop.find_region`; kept as JSON


def locate(ct: Grid, vertebrae: Path, config: RegionConfig = Config()) -> Located:
    """The region of `crop.find_region`, of a CT's grid (an image, or what `open_volume` gives)."""
    points, grid, path = read_vertebrae(vertebrae, config.vertebra_labels)
    check_same_grid(ct, grid, path)
    return region_of(ct, points, config)


def region_of(ct: Grid, points: Mapping[str, Array], config: RegionConfig = Config()) -> Located:
    """The region from {vertebra: its voxels (n, 3) in (x, y, z)}; mm become voxels by truncation in float32."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(ct.GetDirection())
    ap, si, lr = (next(axis for axis in range(3) if code[axis] in pair) for pair in ("AP", "SI", "LR"))
    reference = choose_reference(points, config.landmark)
    used = [reference] if config.si_extent == "L2" else points
    heights = np.concatenate([points[name][:, si] for name in used])
    forward = 1 if code[ap] == "A" else -1
    front, centre = landmark(points[reference], ap, si, lr, forward, config.landmark == "original")

    def voxels(mm, axis):
        return int(np.float32(mm) / np.float32(ct.GetSpacing()[axis]))

    if forward > 0:
        ap_start = front - voxels(config.ap_offset_mm, ap)
        ap_end = ap_start + voxels(config.ap_mm, ap)
    else:
        ap_end = front + voxels(config.ap_offset_mm, ap)
        ap_start = ap_end - voxels(config.ap_mm, ap)
    half = voxels(config.lr_mm, lr) // 2
    size = ct.GetSize()
    region = {
        "si_min": int(heights.min()), "si_max": int(heights.max()),
        "ap_start": max(0, ap_start), "ap_end": min(size[ap], ap_end),
        "lr_start": max(0, centre - half), "lr_end": min(size[lr], centre + half),
        "ap_axis": ap, "si_axis": si, "lr_axis": lr,
        "ap_direction": forward, "si_direction": 1 if code[si] == "S" else -1,
        "voxel_dims": list(ct.GetSpacing()), "orientation": list(code), "shape": list(size),
        "l2_center": centre, "l2_anterior": front, "reference": reference, "vertebrae": list(points),
        "warnings": warnings(ct, reference)}
    start, end = [0, 0, 0], [0, 0, 0]
    for axis, low, high in ((ap, "ap_start", "ap_end"), (lr, "lr_start", "lr_end")):
        start[axis], end[axis] = region[low], region[high]
    start[si], end[si] = region["si_min"], region["si_max"] + 1
    if not all(low + 1 < high for low, high in zip(start, end)):  # a volume has two slices at least
        raise InputError(f"the region around {reference} is empty, or outside the CT. Check the vertebrae, --ap-mm, "
                         "--ap-offset-mm and --lr-mm.")
    return {**region, "start_xyz": start, "size_xyz": [high - low for low, high in zip(start, end)]}


def choose_reference(points: Mapping[str, Array], rule: str = "correct") -> str:
    """L2; without it the labelled vertebra nearest to it, the upper of two ("original": the first)."""
    names = [name for name in VERTEBRAE if name in points]
    if "L2" in points or not names or rule == "original":
        return "L2" if "L2" in points else next(iter(points))
    return min(names, key=lambda name: abs(VERTEBRAE.index(name) - VERTEBRAE.index("L2")))


def landmark(points: Array, ap: int, si: int, lr: int, forward: int, original: bool = False) -> tuple[int, int]:
    """(median anterior margin, median left-right centre) over the middle half of the vertebra's slices.

    original: the authors' axis slip: in each 2-D slice they take the axis by its number in 3-D.
    """
    levels = np.unique(points[:, si])
    quarter = len(levels) // 4
    margins, centres = [], []
    if original:
        in_slice = [axis for axis in range(3) if axis != si]
        if lr >= len(in_slice):
            raise InputError("the original code fails where left-right is the third axis. Use --landmark correct.")
        lr = in_slice[lr]
    for level in levels[quarter:len(levels) - quarter]:
        plane = points[points[:, si] == level]
        margins.append(plane[:, ap].max() if forward > 0 else plane[:, ap].min())
        centres.append(plane[:, lr].mean())
    return int(np.median(margins)), int(np.median(centres))


def warnings(ct: Grid, reference: str) -> list[str]:
    """What the user should know: another reference than L2, an oblique grid."""
    found = []
    if reference not in ("L2", "unlabelled"):
        found.append(f"L2 is missing, {reference} takes its place")
    if np.abs(np.sort(np.abs(np.reshape(ct.GetDirection(), (3, 3))), axis=1)[:, :2]).max() > 1e-3:
        found.append("the grid is oblique; its axes are taken as the nearest of the body's")
    return found


def read_vertebrae(path: Path, labels: Sequence[int] = Config.vertebra_labels) -> tuple[dict[str, Array], Grid, Path]:
    """({vertebra: voxels (n, 3) in (x, y, z)}, their grid, its path) of a folder with vertebrae_<name>
    files, or of one file: multi-label, or unlabelled (then the only name is "unlabelled").

    Raises InputError when no vertebra is found, or when the files do not share a grid.
    """
    if not path.is_dir():
        return _from_one_file(path, labels)
    points: dict[str, Array] = {}
    grid, first = None, path
    for name in VERTEBRAE:
        files = [file for suffix in SUFFIXES if (file := path / f"vertebrae_{name}{suffix}").exists()]
        if not files:
            continue
        if len(files) > 1:
            raise InputError(f"{path}: {files[0].name} and {files[1].name}. Keep one of the two.")
        (voxels, _), own_grid = _voxels(files[0])
        if grid is None:
            grid, first = own_grid, files[0]
        check_same_grid(grid, own_grid, files[0])
        if len(voxels):
            points[name] = voxels
    if not points or grid is None:
        raise InputError(f"{path}: no vertebra found (vertebrae_T12 ... vertebrae_L5 absent or empty). "
                         "Does the CT show the lumbar spine? Run vert_seg.py again.")
    return points, grid, first


def _from_one_file(path, labels):
    (voxels, values), grid = _voxels(path)
    points = {name: voxels[values == label] for name, label in zip(VERTEBRAE, labels) if (values == label).any()}
    if not points and len(values):
        if len(np.unique(values)) > 1:
            raise InputError(f"{path}: no vertebra found, labels {sorted(set(values.tolist()))[:8]}. "
                             f"T12, L1-L5 are expected as {labels}; give others with --vertebra-labels.")
        points = {"unlabelled": voxels}
    if not points:
        raise InputError(f"{path}: no vertebra found, the mask is empty. Does the CT show the lumbar spine?")
    return points, grid, path


def _voxels(path):
    """((indices (n, 3) in (x, y, z), values (n,)) of what is above 0, the grid)."""
    grid, slices = open_volume(path)
    indices, values = [np.empty((0, 3), int)], [np.empty(0, int)]
    for k, plane in enumerate(slices):
        if plane.any():
            y, x = np.nonzero(plane > 0)
            indices.append(np.stack([x, y, np.full(len(x), k)], axis=1))
            values.append(plane[y, x])
    return (np.concatenate(indices), np.concatenate(values)), grid
