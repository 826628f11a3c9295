"""Nodules given by place and size (list3.2.csv, LUNA16's annotations.csv), and their masks drawn on the scan."""
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.cell_magic_wand import cell_magic_wand, edge_wand
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.named_types import Array, Mask, Row, StrPath

if TYPE_CHECKING:
    from lung_nodule_nasnet.scans import Scan, Volume

SOLID_HU = -500  # the authors take what is darker out of the wand's mask
WAND_MIN_RADIUS = 2  # pixels
NEIGHBOURS_ABOVE_MM = 5  # nodules of the list above this diameter get the two slices beside, too
EDGE_PULL = 10.0  # HU a pixel of leaving the expected radius
CONSTANTS = {"SOLID_HU": SOLID_HU, "WAND_MIN_RADIUS": WAND_MIN_RADIUS, "NEIGHBOURS_ABOVE_MM": NEIGHBOURS_ABOVE_MM,
             "EDGE_PULL": EDGE_PULL}  # kept beside prepared slices
LIST_COLUMNS = ["case", "scan", "eq. diam.", "x loc.", "y loc.", "slice no."]
LUNA_COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]


Finding = tuple[float, ...]  # (x, y, z, diameter), mm in LPS
Nodule = dict[str, Any]  # "voxels": flat indices, "readers", and where known "centre_zyx", "diameter_mm"


def read_nodule_list(path: StrPath) -> dict[int, list[Row]]:
    """{case number: rows} of list3.2.csv; a row is {"scan", "x", "y", "slice", "diameter_mm"}, as in the file."""
    found = defaultdict(list)
    for number, row in enumerate(read_table(path, LIST_COLUMNS), 2):
        case, x, y, place, diameter = _numbers(
            path, number, row, ["case", "x loc.", "y loc.", "slice no.", "eq. diam."])
        found[int(case)].append({"scan": row["scan"].strip(), "x": x, "y": y, "slice": int(place),
                                 "diameter_mm": diameter})
    return dict(found)


def read_luna_annotations(path: StrPath) -> dict[str, list[Finding]]:
    """{series uid: [(x, y, z, diameter)]}, mm in LPS, of a table like LUNA16's annotations.csv."""
    found = defaultdict(list)
    for number, row in enumerate(read_table(path, LUNA_COLUMNS), 2):
        found[row["seriesuid"].strip()].append(tuple(_numbers(path, number, row, LUNA_COLUMNS[1:])))
    return dict(found)


def _numbers(path, line, row, columns):
    try:
        values = [float(row[column]) for column in columns]
    except (TypeError, ValueError):
        values = [math.nan]
    if not all(map(math.isfinite, values)):
        raise InputError(f"{path}: line {line} does not hold numbers in {', '.join(columns)}. Correct it.")
    return values


def of_the_list(rows: Sequence[Row], scan: "Scan", n_series: int, path: StrPath) -> Sequence[Row]:
    """The rows of one scan: a patient's only series has them all, else `scan` must be the series number."""
    if n_series == 1 and len({row["scan"] for row in rows}) <= 1:
        return rows
    of_scan = [row for row in rows if row["scan"] == scan.number]
    if not of_scan and rows:
        raise InputError(f"{path}: patient {scan.patient} has {n_series} CT series here and scans "
                         f"{', '.join(sorted({row['scan'] for row in rows}))} in the list; series number "
                         f"{scan.number or '(none)'} is none of them. Keep one series, or use the XML read-outs.")
    return of_scan


def list_nodules(rows: Iterable[Row], volume: "Volume", convention: str, rule: str,
                 path: StrPath) -> tuple[list[Nodule], set[int]]:
    """(nodules, unsure slices) as of `consensus_nodules`, drawn at the places of the list.

    Columns and rows count from 1, slices from the top. convention "authors": columns and rows from 0, and the
    diameter in mm taken for a radius in pixels.
    """
    n, spacing_zyx = len(volume.hu_zyx), volume.image.GetSpacing()[::-1]
    nodules: list[Nodule] = []
    unsure: set[int] = set()
    for row in rows:
        first = 0 if convention == "authors" else 1
        centre = (n - row["slice"], row["y"] - first, row["x"] - first)
        check_inside(centre, volume.hu_zyx.shape, f"{path}: nodule at slice {row['slice']}")
        reach = 1 if row["diameter_mm"] > NEIGHBOURS_ABOVE_MM else 0
        half = int(row["diameter_mm"] / 2 / spacing_zyx[0])
        unsure.update(range(centre[0] - half, centre[0] + half + 1))
        radius = row["diameter_mm"] if convention == "authors" else None
        slices = range(max(0, centre[0] - reach), min(n, centre[0] + reach + 1))
        nodules.append(draw_nodule(volume, centre, row["diameter_mm"], rule, slices, radius))
    return nodules, unsure


def luna_nodules(rows: Iterable[Finding], volume: "Volume", rule: str, path: StrPath) -> tuple[list[Nodule], set[int]]:
    """(nodules, no unsure slices) of LUNA16's world coordinates, on all slices they reach."""
    nodules = []
    for x, y, z, diameter in rows:
        centre = volume.image.TransformPhysicalPointToContinuousIndex((x, y, z))[::-1]
        check_inside(centre, volume.hu_zyx.shape, f"{path}: nodule at {x:g} {y:g} {z:g} mm")
        nodules.append(draw_nodule(volume, centre, diameter, rule))
    return nodules, set()


def check_inside(centre: Sequence[float], shape: Sequence[int], what: str) -> None:
    if not all(-0.5 <= at <= limit - 0.5 for at, limit in zip(centre, shape)):
        raise InputError(f"{what} lies outside the scan of {shape[2]}x{shape[1]}x{shape[0]} voxels. "
                         "Is a part of the scan missing, or the list of another one?")


def draw_nodule(volume: "Volume", centre_zyx: Sequence[float], diameter_mm: float, rule: str,
                slices: Iterable[int] | None = None, limit: float | None = None) -> Nodule:
    """A nodule of known place and size as {"voxels": flat indices}; on `slices`, or on all that it reaches.

    rule "edge": the steepest closed outline near the expected circle, which stands in where there is none.
    "authors": wand on the sign-flipped scan, then HU > -500; `limit`: its largest radius in pixels.
    """
    hu, spacing_zyx = volume.hu_zyx, volume.image.GetSpacing()[::-1]
    middle, radius_mm = int(round(centre_zyx[0])), diameter_mm / 2
    if slices is None:
        reach = int(radius_mm / spacing_zyx[0])
        slices = range(max(0, middle - reach), min(len(hu), middle + reach + 1))
    centre_yx, flat = centre_zyx[1:], []
    for k in slices:
        height = abs(k - centre_zyx[0]) * spacing_zyx[0]
        radius = max(1.0, math.sqrt(max(0.0, radius_mm ** 2 - height ** 2)) / spacing_zyx[1])
        plane, (top, left) = window(hu[k], centre_yx, 3 * (limit or radius) + 8)
        centre = centre_yx[0] - top, centre_yx[1] - left
        if rule == "authors":
            reached = max(WAND_MIN_RADIUS + 1, math.ceil(limit or radius + 2))
            mask = cell_magic_wand(-plane.astype(int), centre, WAND_MIN_RADIUS, reached) & (plane > SOLID_HU)
        else:
            drawn = edge_wand(plane, centre, 1, 1.4 * radius + 2, radius, EDGE_PULL)
            mask = disc(plane.shape, centre, radius) if drawn is None else drawn
        rows, columns = np.nonzero(mask)
        flat.append((k * hu.shape[1] + rows + top) * hu.shape[2] + columns + left)
    return {"voxels": np.unique(np.concatenate(flat)), "readers": None, "centre_zyx": centre_zyx,
            "diameter_mm": diameter_mm}


def window(plane: Array, centre: Sequence[float], reach: float) -> tuple[Array, tuple[int, int]]:
    """(the part of a slice within `reach` of a centre, its first row and column)."""
    top, left = (max(0, int(at - reach)) for at in centre)
    return plane[top:int(centre[0] + reach) + 2, left:int(centre[1] + reach) + 2], (top, left)


def disc(shape: Sequence[int], centre: Sequence[float], radius: float) -> Mask:
    y, x = np.ogrid[:shape[0], :shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= max(radius, 0.71) ** 2


def describe(nodule: Nodule, image: sitk.Image) -> Row:
    """{"coordX", "coordY", "coordZ" (mm, LPS), "diameter_mm", "readers"}: as given, or of the voxels (the sphere of
    their volume)."""
    z, y, x = nodule.get("centre_zyx") or (float(axis.mean()) for axis in
                                           np.unravel_index(nodule["voxels"], image.GetSize()[::-1]))
    volume_mm3 = len(nodule["voxels"]) * math.prod(image.GetSpacing())
    place = image.TransformContinuousIndexToPhysicalPoint((float(x), float(y), float(z)))
    return {**dict(zip(LUNA_COLUMNS[1:4], place)), "readers": nodule["readers"],
            "diameter_mm": nodule.get("diameter_mm") or (6 * volume_mm3 / math.pi) ** (1 / 3)}
