"""LIDC-IDRI's XML read-outs: what four readers outlined, grouped into nodules, as consensus masks."""
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import cv2
import numpy as np

from lung_nodule_nasnet.nodules import Nodule
from shared_data.errors import InputError
from shared_data.named_types import Labels, Mask, StrPath

if TYPE_CHECKING:
    from lung_nodule_nasnet.scans import Volume

HEAD_BYTES = 4096  # the series uid stands within


@dataclass(frozen=True)
class Outline:
    z_mm: float
    sop_uid: str
    inside: bool  # False: a hole
    points: Labels  # (n, 2): column, row


@dataclass(frozen=True)
class Mark:
    """What one reader says of one nodule."""

    name: str
    rated: bool  # nodules under 3 mm carry no ratings and one point
    outlines: tuple[Outline, ...]


def find_readouts(files: Iterable[Path]) -> dict[str, Path]:
    """{series uid: path} of the CT read-outs among files; XML of radiographs or of anything else is left out."""
    found = {}
    for path in sorted(path for path in files if path.suffix.lower() == ".xml"):
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8", "replace")
        uid = re.search(r"<SeriesInstanceUid>\s*([\d.]+)\s*</SeriesInstanceUid>", head, re.IGNORECASE)
        if "LidcReadMessage" in head and uid:
            found[uid[1]] = path
    return found


def read_readout(path: StrPath) -> list[list[Mark]]:
    """[marks of each reader]. Raises InputError when the file is damaged or says impossible things."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole XML file ({error}). Fetch it again.") from error
    if not root.tag.endswith("LidcReadMessage"):
        raise InputError(f"{path}: root {root.tag}, not a CT read-out (LidcReadMessage).")
    name = re.match(r"\{.*\}", root.tag)
    space = name[0] if name else ""
    try:
        return [[_mark(nodule, space) for nodule in session.iter(f"{space}unblindedReadNodule")]
                for session in root.iter(f"{space}readingSession")]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: an outline in it cannot be read ({error}). Fetch it again.") from error


def _mark(nodule, space):
    ratings = nodule.find(f"{space}characteristics")
    outlines = []
    for roi in nodule.iter(f"{space}roi"):
        points = [(int(edge.findtext(f"{space}xCoord")), int(edge.findtext(f"{space}yCoord")))
                  for edge in roi.iter(f"{space}edgeMap")]
        inside = (roi.findtext(f"{space}inclusion") or "TRUE").strip().upper() != "FALSE"
        outlines.append(Outline(float(roi.findtext(f"{space}imageZposition")),
                                (roi.findtext(f"{space}imageSOP_UID") or "").strip(), inside, np.array(points, int)))
    return Mark(nodule.findtext(f"{space}noduleID") or "?", ratings is not None and len(ratings) > 0, tuple(outlines))


def consensus_nodules(readers: Sequence[Sequence[Mark]], volume: "Volume", share: float, min_readers: int,
                      path: StrPath) -> tuple[list[Nodule], set[int]]:
    """(nodules, unsure slices): each nodule as {"voxels": flat indices (z, y, x), "readers": n}.

    Marks that overlap are one nodule; a voxel is nodule when `share` of its marks hold it. Unsure are the slices with
    nodules under 3 mm or of fewer readers. Raises InputError for outlines outside the scan.
    """
    places = {uid: k for k, uid in enumerate(volume.sop_uids)}
    z_mm = [volume.image.TransformIndexToPhysicalPoint((0, 0, k))[2] for k in range(volume.image.GetSize()[2])]
    shape = volume.hu_zyx.shape
    marks: list[tuple[int, Labels]] = []
    unsure: set[int] = set()
    for number, reader in enumerate(readers):
        for mark in reader:
            drawn = draw_mark(mark, places, z_mm, shape, path)
            if mark.rated and len(drawn):
                marks.append((number, drawn))
            else:
                unsure.update((drawn // (shape[1] * shape[2])).tolist())
    nodules = []
    for group in overlapping([drawn for _, drawn in marks]):
        voxels, votes = np.unique(np.concatenate([marks[i][1] for i in group]), return_counts=True)
        n_readers = len({marks[i][0] for i in group})
        if n_readers < min_readers:
            unsure.update((voxels // (shape[1] * shape[2])).tolist())
            continue
        consensus = voxels[votes >= share * len(group) - 1e-9]
        unsure.update(set((voxels // (shape[1] * shape[2])).tolist()))
        if len(consensus):
            nodules.append({"voxels": consensus, "readers": n_readers})
    return nodules, unsure


def draw_mark(mark: Mark, places: Mapping[str, int], z_mm: Sequence[float], shape: Sequence[int],
              path: StrPath) -> Labels:
    """Flat indices (z, y, x), sorted, of the voxels that a reader's outlines enclose."""
    half = abs(z_mm[-1] - z_mm[0]) / max(1, len(z_mm) - 1) / 2
    slices: dict[int, Mask] = {}
    for outline in sorted(mark.outlines, key=lambda outline: not outline.inside):  # holes last
        k = places.get(outline.sop_uid)
        if k is None:
            k = int(np.abs(np.subtract(z_mm, outline.z_mm)).argmin())
            if abs(z_mm[k] - outline.z_mm) > half + 1e-3:
                raise InputError(f"{path}: nodule {mark.name} at z {outline.z_mm:g} mm lies outside the scan "
                                 f"({min(z_mm):g} to {max(z_mm):g} mm). Is a part of the scan missing?")
        if len(outline.points) == 0:
            continue
        if outline.points.min() < 0 or (outline.points.max(0) >= shape[:0:-1]).any():
            raise InputError(f"{path}: nodule {mark.name} lies outside the {shape[2]}x{shape[1]} slices.")
        plane = slices.setdefault(k, np.zeros(shape[1:], bool))
        filled = enclosed(outline.points, shape[1:])
        plane[filled] = outline.inside
    flat = [k * shape[1] * shape[2] + np.flatnonzero(plane) for k, plane in sorted(slices.items())]
    return np.concatenate(flat) if flat else np.zeros(0, int)


def enclosed(points: Labels, shape_yx: Sequence[int]) -> Mask:
    """What an outline (column, row) encloses: it runs on the first voxels outside, and alone counts where nothing else
    is left."""
    polygon = [points.reshape(-1, 1, 2).astype(np.int32)]
    filled, line = np.zeros(shape_yx, np.uint8), np.zeros(shape_yx, np.uint8)
    cv2.fillPoly(filled, polygon, 1)
    cv2.polylines(line, polygon, True, 1)
    inner = (filled > 0) & (line == 0)
    return inner if inner.any() else filled > 0


def overlapping(marks: Sequence[Labels]) -> list[list[int]]:
    """Groups of indices of marks (sorted flat indices) that share voxels, directly or through others."""
    group = list(range(len(marks)))
    for i in range(len(marks)):
        for j in range(i):
            if group[i] != group[j] and np.intersect1d(marks[i], marks[j], assume_unique=True).size:
                group = [group[j] if g == group[i] else g for g in group]
    return [[i for i, g in enumerate(group) if g == name] for name in sorted(set(group))]
