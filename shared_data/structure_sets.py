"""Structure sets as files: found by what they refer to, read to their end, and what is in them; no geometry."""
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
    """(path, UID of the CT series it was drawn on) of the only RTSTRUCT under a folder referring to a CT series in it,
    None where there is none. Raises InputError for several, and for one of another CT."""
    headers = list(dicom_headers(folder))
    ct_series = {uid: slices[0][1].get("FrameOfReferenceUID") for uid, slices in ct_series_of(headers).items()}
    found = {file: header for file, header in headers if header.get("Modality") == "RTSTRUCT"}
    if not found:
        return None
    fitting = {}
    for file, header in found.items():
        with readable(file):
            frames, series = referred(header)
        fitting[file] = [uid for uid in ct_series if uid in series] or [uid for uid, frame in ct_series.items()
                                                                        if frame in frames]
    drawn_here = [file for file, uids in fitting.items() if uids]
    if len(drawn_here) > 1:
        raise InputError(f"{folder}: {len(drawn_here)} RTSTRUCTs: {', '.join(map(str, drawn_here))}. Keep one.")
    if not drawn_here:
        raise InputError(f"{next(iter(found))}: refers to none of the CT series under {folder}. Put it beside its CT.")
    path = drawn_here[0]
    if len(fitting[path]) > 1:
        raise InputError(f"{path}: fits {len(fitting[path])} CT series: {', '.join(fitting[path])}. Keep one of them.")
    return path, fitting[path][0]


def referred(structures: Dataset) -> tuple[set[str], set[str]]:
    """(UIDs of the frames of reference, UIDs of the series) that a structure set refers to."""
    frames = structures.get("ReferencedFrameOfReferenceSequence") or []
    series = [item.get("SeriesInstanceUID", "") for frame in frames
              for study in frame.get("RTReferencedStudySequence") or []
              for item in study.get("RTReferencedSeriesSequence") or []]
    return ({frame.get("FrameOfReferenceUID", "") for frame in frames}
            | {structures.get("FrameOfReferenceUID", "")}) - {""}, set(series)


def open_rtstruct(path: StrPath) -> Dataset:
    """The data set of an RTSTRUCT file, read to its end. Raises InputError."""
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
    """{ROI name: number of its contours} of a structure set."""
    structures = open_rtstruct(path)
    with readable(path):
        return {name: len((item and item.get("ContourSequence")) or []) for name, _, item in rois_of(structures, path)}


def rois_of(structures: Dataset, path: StrPath) -> list[tuple[str, str, Dataset | None]]:
    """[(name, UID of its frame of reference, its item of ROIContourSequence or None)] of every ROI."""
    rois = structures.get("StructureSetROISequence") or []
    if len(rois) > MAX_ROIS:
        raise InputError(f"{path}: {len(rois)} ROIs; at most {MAX_ROIS} are read. Export those that are needed.")
    items = {item.get("ReferencedROINumber"): item for item in structures.get("ROIContourSequence") or []}
    return [(str(roi.get("ROIName", "")), roi.get("ReferencedFrameOfReferenceUID", ""), items.get(roi.get("ROINumber")))
            for roi in rois]


@contextmanager
def readable(path: StrPath) -> Iterator[None]:
    """Whatever pydicom raises of what is no DICOM, damaged or cut short, as an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: no DICOM file, damaged or cut short. Fetch it again.") from error


def _check_whole(structures):
    """Raise EOFError for a value that ends early, which pydicom takes as it is."""
    for item in map(structures.get_item, structures.keys()):
        if isinstance(item, RawDataElement) and item.length not in (0xFFFFFFFF, len(item.value or b"")):
            raise EOFError(f"{item.tag} ends early")
