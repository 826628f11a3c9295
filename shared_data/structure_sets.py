"""Structure sets (RTSTRUCT) as files: find the one of a CT, read it, list its ROIs. Geometry is in rtstruct.py."""
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from shared_data.dicom import ct_series_of, dicom_headers
from shared_data.errors import InputError
from shared_data.named_types import StrPath

MAX_ROIS = 1000


def find_rtstruct(folder: StrPath) -> tuple[Path, str] | None:
    """(path, UID of its CT series) of the RTSTRUCT under a folder that refers to a CT series under it; None if there is
    no RTSTRUCT.

    Raises InputError when several fit, and when one refers to several of the series or to none.
    """
    headers = list(dicom_headers(folder))
    ct_series = {uid: slices[0][1].get("FrameOfReferenceUID") for uid, slices in ct_series_of(headers).items()}
    structure_sets = {file: header for file, header in headers if header.get("Modality") == "RTSTRUCT"}
    if not structure_sets:
        return None
    fitting = {}
    for file, header in structure_sets.items():
        with readable(file):
            frames, series = referred(header)
        by_series = [uid for uid in ct_series if uid in series]
        by_frame = [uid for uid, frame in ct_series.items() if frame in frames]
        if uids := by_series or by_frame:
            fitting[file] = uids
    if len(fitting) > 1:
        raise InputError(f"{folder}: {len(fitting)} RTSTRUCTs: {', '.join(map(str, fitting))}. Keep one.")
    if not fitting:
        raise InputError(f"{next(iter(structure_sets))}: refers to none of the CT series under {folder}. Put it beside "
                         "its CT.")
    [(path, uids)] = fitting.items()
    if len(uids) > 1:
        raise InputError(f"{path}: fits {len(uids)} CT series: {', '.join(uids)}. Keep one of them.")
    return path, uids[0]


def referred(structures: Dataset) -> tuple[set[str], set[str]]:
    """(UIDs of the frames of reference, UIDs of the series) that a structure set refers to."""
    frames = structures.get("ReferencedFrameOfReferenceSequence") or []
    series = [item.get("SeriesInstanceUID", "") for frame in frames
              for study in frame.get("RTReferencedStudySequence") or []
              for item in study.get("RTReferencedSeriesSequence") or []]
    return ({frame.get("FrameOfReferenceUID", "") for frame in frames}
            | {structures.get("FrameOfReferenceUID", "")}) - {""}, set(series)


def open_rtstruct(path: StrPath) -> Dataset:
    """The data set of an RTSTRUCT file. Raises InputError when it cannot be read to its end, or is not an RTSTRUCT."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such file.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it.")
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*[Ee]nd of file")
        structures = pydicom.dcmread(path)
        _check_whole(structures)
        modality = structures.get("Modality")
    if modality != "RTSTRUCT":
        raise InputError(f"{path}: DICOM of modality {modality or 'unknown'}. An RTSTRUCT is needed.")
    return structures


def roi_names(path: StrPath) -> dict[str, int]:
    """{ROI name: number of its contours} of an RTSTRUCT file."""
    structures = open_rtstruct(path)
    with readable(path):
        return {name: len((item and item.get("ContourSequence")) or []) for name, _, item in rois_of(structures, path)}


def rois_of(structures: Dataset, path: StrPath) -> list[tuple[str, str, Dataset | None]]:
    """[(name, UID of its frame of reference, its item of ROIContourSequence or None)] of every ROI.

    Raises InputError when there are more than MAX_ROIS; `path` names the file.
    """
    rois = structures.get("StructureSetROISequence") or []
    if len(rois) > MAX_ROIS:
        raise InputError(f"{path}: {len(rois)} ROIs; at most {MAX_ROIS} are read. Export those that are needed.")
    items = {item.get("ReferencedROINumber"): item for item in structures.get("ROIContourSequence") or []}
    return [(str(roi.get("ROIName", "")), roi.get("ReferencedFrameOfReferenceUID", ""), items.get(roi.get("ROINumber")))
            for roi in rois]


@contextmanager
def readable(path: StrPath) -> Iterator[None]:
    """Turn whatever pydicom raises over a file into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a DICOM file, damaged or cut short. Fetch it again.") from error


def _check_whole(structures):
    """Raise EOFError for a value that ends early; pydicom accepts those."""
    for item in map(structures.get_item, structures.keys()):
        if isinstance(item, RawDataElement) and item.length not in (0xFFFFFFFF, len(item.value or b"")):
            raise EOFError(f"{item.tag} ends early")
