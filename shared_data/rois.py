"""Which ROIs of an RTSTRUCT are which organs; as a program, the ROIs of a cohort with counts.

    python -m shared_data.rois --data-dir /my/cohort [--rois rois.json]

rois.json: {"organ": "name" or ["name or pattern", ...]}, case does not matter, * matches anything; all ROIs that match
make up the organ together. Other organs are found by common spellings, TG-263's among them (organ_names.py).
"""
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from operator import or_
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.cohort import say_skipped
from shared_data.dicom import dicom_headers
from shared_data.errors import InputError, one_line, run_script
from shared_data.files import read_json
from shared_data.named_types import StrPath
from shared_data.organ_names import SPELLINGS, identity
from shared_data.rtstruct import read_rtstruct
from shared_data.settings import parse_options
from shared_data.structure_sets import roi_names
from shared_data.volume import read_ct

Patterns = dict[str, list[str]]  # {organ: names or patterns of its ROIs}

NODES: Patterns = {"node": ["*node*", "*lymph*", "ln*", "*[ _-]ln*", "gtvn*", "gtv[ _-]n*"]}  # common names of nodes


def read_rois(path: StrPath | None, organs: Collection[str] | None = None) -> Patterns:
    """{organ: patterns} of a mapping file, {} for None. Raises InputError for organs not in `organs` (None: any)."""
    mapping = read_json(path) if path else {}
    if not isinstance(mapping, dict):
        raise InputError(f'{path}: not a mapping. Write {{"organ": ["name or pattern", ...], ...}}.')
    mapping = {organ: [names] if isinstance(names, str) else names for organ, names in mapping.items()}
    for organ, patterns in mapping.items():
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise InputError(f"{path}: {organ!r} needs a name or a list of names.")
        if organs and organ not in organs:
            raise InputError(f"{path}: {organ!r} is none of our organs: {', '.join(organs)}.")
    return mapping


def choose_rois(names: Collection[str], organs: Iterable[str], mapping: Mapping[str, list[str]],
                path: StrPath) -> dict[str, list[str]]:
    """{organ: its ROI names} of the organs found among `names`. Raises InputError when several ROIs may be an organ."""
    chosen = {}
    for organ in organs:
        if organ in mapping:
            found = [name for name in names
                     if any(fnmatchcase(name.lower(), pattern.lower()) for pattern in mapping[organ])]
        else:
            found = [name for name in names if identity(name) == identity(organ)]
            found = [organ] if organ in found else found
            if len(found) > 1:
                both = " and ".join(map(repr, found))
                raise InputError(f"{path}: {both} may both be {organ}. Say which with --rois.")
        if found:
            chosen[organ] = found
    return chosen


def masks_of(path: StrPath, ct: sitk.Image, organs: Iterable[str],
             mapping: Mapping[str, list[str]]) -> tuple[dict[str, sitk.Image], list[str]]:
    """({organ: uint8 mask on the CT's grid} in the order of `organs`, names of unused ROIs) of an RTSTRUCT.

    An organ with several ROIs is their union. Raises InputError when no organ is found.
    """
    names = [name for name, contours in roi_names(path).items() if contours]
    chosen = choose_rois(names, organs, mapping, path)
    if not chosen:
        raise InputError(f"{path}: none of {', '.join(organs)} among its ROIs with contours: "
                         f"{', '.join(names[:30]) or 'none'}. Name them with --rois.")
    used = {name for found in chosen.values() for name in found}
    masks = read_rtstruct(path, ct, used)
    parts = {organ: [masks[name] for name in found if name in masks] for organ, found in chosen.items()}
    return ({organ: reduce(or_, found) for organ, found in parts.items() if found},
            [name for name in names if name not in used])


def labels_of(folder: StrPath, rtstruct: StrPath, series: str | None, organs: Sequence[str],
              mapping: Mapping[str, list[str]]) -> tuple[sitk.Image, sitk.Image, list[str], list[str]]:
    """(CT, map of the labels 1, 2, ... of `organs` on its grid, [organs in it], [unused ROIs]) of a DICOM case.

    Where two organs overlap, the later label wins. Raises InputError when no organ is found.
    """
    ct = read_ct(folder, series)
    masks, unused = masks_of(rtstruct, ct, organs, mapping)
    merged, drawn = np.zeros(ct.GetSize()[::-1], np.uint8), []
    for organ, mask in masks.items():
        inside = sitk.GetArrayViewFromImage(mask) > 0
        merged[inside] = organs.index(organ) + 1
        drawn += [organ] if inside.any() else []
    labels = sitk.GetImageFromArray(merged)
    labels.CopyInformation(ct)
    return ct, labels, drawn, unused


@dataclass(frozen=True)
class Options:
    data_dir: Path  # the cohort: every RTSTRUCT below it is read
    rois: Path | None = None  # JSON {organ: names or patterns} to try; unset: common spellings


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    mapping, skipped = read_rois(options.rois), {}
    counts: Counter[str] = Counter()
    taken_for: defaultdict[str, set[str]] = defaultdict(set)
    files = [file for file, header in dicom_headers(options.data_dir) if header.get("Modality") == "RTSTRUCT"]
    if not files:
        raise InputError(f"{options.data_dir}: no RTSTRUCT below it.")
    for file in files:
        try:
            names = [name for name, contours in roi_names(file).items() if contours]
            counts.update(names)
            for organ, found in choose_rois(names, mapping, mapping, file).items():
                for name in found:
                    taken_for[name].add(organ)
        except InputError as error:
            skipped[str(file)] = one_line(error)
    print(f"{len(files) - len(skipped)} RTSTRUCTs")
    for name, count in counts.most_common():
        what, side = identity(name)
        known = [f"{what} {side}".strip()] if what in SPELLINGS else []
        print(f"{count:6} {name}" + "".join(f" -> {organ}" for organ in sorted(taken_for[name]) or known))
    return say_skipped(skipped)


if __name__ == "__main__":
    run_script(main)
