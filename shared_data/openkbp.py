"""OpenKBP (Babier et al., Medical Physics 2021) as published: real head-and-neck CTs with clinicians' contours.

`<root>/provided-data/{train,validation,test}-pats/<case>/` with ct.csv, <structure>.csv, possible_dose_mask.csv (index
into 128x128x128 voxels, value) and voxel_dimensions.csv (mm). Axes: posterior, left, inferior.

The CT was published only inside the dose mask and the structures. Where a structure leaves the mask, the published CT
ends at its outline, and a network would learn that instead of anatomy. So everything outside the mask becomes air, and
a structure counts as drawn only if at least DRAWN of it lies inside.
"""
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.cohort import subfolders
from shared_data.errors import InputError
from shared_data.organ_names import identity
from shared_data.volume import image_from

PARTS = {"train": "train-pats", "valid": "validation-pats", "test": "test-pats"}
STRUCTURES = {"Brainstem": "BrainStem", "SpinalCord": "SpinalCord", "RightParotid": "Parotid_R",
              "LeftParotid": "Parotid_L", "Esophagus": "Esophagus", "Larynx": "Larynx", "Mandible": "Mandible"}
ORGANS = tuple(STRUCTURES.values())  # labels 1 to 7, unless a label table says otherwise
SHAPE = (128, 128, 128)
WATER = 1000  # grey value of 0 HU
AIR_HU = -WATER
DRAWN = 0.95  # share of a structure inside the dose mask
SMALLEST_ML = 1000  # a case whose dose mask is smaller shows too little of the patient and is left out
IMAGED = 0.8  # smallest share of a dose mask with grey values above 0; in the published data 0.90 to 1
CONSTANTS = {"DRAWN": DRAWN, "SMALLEST_ML": SMALLEST_ML, "IMAGED": IMAGED, "WATER": WATER}  # kept beside prepared cases


def find_cases(root: Path) -> list[tuple[str, Path]]:
    """[(part, folder)] of a clone of OpenKBP, in natural order. Raises InputError for any other folder."""
    data = root / "provided-data" if "provided-data" in subfolders(root) else root
    absent = [name for name in PARTS.values() if name not in subfolders(data)]
    if absent:
        raise InputError(f"{data}: no {absent[0]} in it. Name the folder that holds OpenKBP's provided-data.")
    return [(part, data / name / case) for part, name in PARTS.items() for case in subfolders(data / name)]


def case_files(folder: Path) -> dict[str, Path]:
    """{stem: file} of the files of a case that are read. Raises InputError when a required one is missing."""
    files = {stem: folder / f"{stem}.csv" for stem in ("ct", "possible_dose_mask", "voxel_dimensions", *STRUCTURES)}
    absent = [path for stem, path in files.items() if stem not in STRUCTURES and not path.exists()]
    if absent:
        raise InputError(f"{absent[0]}: no such file. Fetch the case again.")
    return {stem: path for stem, path in files.items() if path.exists()}


def read_case(folder: Path, organs: Sequence[str]) -> tuple[sitk.Image, sitk.Image, list[str], list[str]]:
    """(CT in HU, int16 image in LPS; labels on its grid, uint8 image; [organs drawn]; [notes]) of a case.

    organs: names of the labels 1, 2, ...; where two overlap the later one wins. Raises InputError for a damaged file, a
    dose mask under SMALLEST_ML, and a case in which none of the organs is drawn.
    """
    files = case_files(folder)
    spacing = _read_spacing(files["voxel_dimensions"])
    inside = _read_mask(files["possible_dose_mask"])
    volume_ml = inside.sum() * np.prod(spacing) / 1000
    if volume_ml < SMALLEST_ML:
        raise InputError(f"{files['possible_dose_mask']}: {volume_ml:.0f} ml, under {SMALLEST_ML}: too little of the "
                         "patient was published. Leave the case out.")
    grey = np.zeros(SHAPE, np.int32)
    index, value = _read_sparse(files["ct"], 2)
    grey.ravel()[index] = np.clip(value, 0, 32767)
    if (grey[inside] > 0).mean() < IMAGED:
        raise InputError(f"{files['ct']}: only {(grey[inside] > 0).mean():.0%} of the dose mask has values. Cut short? "
                         "Fetch it again.")
    labels, drawn, notes = np.zeros(SHAPE, np.uint8), [], []
    stems = {identity(organ): stem for stem, organ in STRUCTURES.items() if stem in files}
    for label, organ in enumerate(organs, 1):
        if not (stem := stems.get(identity(organ))):
            continue
        mask = _read_mask(files[stem])
        share = (mask & inside).sum() / mask.sum()
        if share < DRAWN:
            notes.append(f"{organ}: {share:.0%} inside the dose mask, not drawn")
            continue
        labels[mask & inside] = label
        drawn.append(organ)
    if not drawn:
        raise InputError(f"{folder}: none of {', '.join(organs)} is drawn ({'; '.join(notes) or 'no file of one'}).")
    hu = np.where(inside, grey - WATER, AIR_HU).astype(np.int16)
    return _image(hu, spacing), _image(labels, spacing), drawn, notes


def _image(array, spacing_mm):
    """Array with axes posterior, left, inferior -> an image in LPS."""
    y, x, z = spacing_mm
    return image_from(np.ascontiguousarray(array.transpose(2, 0, 1)[::-1]), {
        "size_xyz": [SHAPE[1], SHAPE[0], SHAPE[2]], "spacing_xyz": [x, y, z], "origin_xyz": [0.0, 0.0, 0.0],
        "direction": [1.0, 0, 0, 0, 1, 0, 0, 0, 1]})


def _read_mask(path):
    mask = np.zeros(SHAPE, bool)
    mask.ravel()[_read_sparse(path, 1)[0]] = True
    return mask


def _read_sparse(path, columns):
    """(flat indices, values or None) of a sparse array. A line that was cut short is an error."""
    damaged = InputError(f"{path}: damaged or cut short. Fetch it again.")
    try:
        text = Path(path).read_text(encoding="ascii")
        if not text.startswith(",data") or not text.endswith("\n") or text.count("\n") < 2:
            raise damaged
        rows = np.loadtxt(text.splitlines(), delimiter=",", skiprows=1, usecols=range(columns), ndmin=2)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Fetch the case again.") from None
    except ValueError:  # UnicodeDecodeError, too
        raise damaged from None
    index = rows[:, 0]
    if not np.isfinite(rows).all() or (index % 1).any() or index.min() < 0 or index.max() >= np.prod(SHAPE):
        raise damaged
    return index.astype(np.int64), rows[:, 1] if columns == 2 else None


def _read_spacing(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an empty file, refused below
        try:
            spacing = np.loadtxt(path, ndmin=1)
        except ValueError:
            spacing = np.zeros(0)
    if spacing.shape != (3,) or not all(0.05 <= mm <= 50 for mm in spacing):
        raise InputError(f"{path}: not three spacings in mm. Fetch it again.")
    return spacing.tolist()
