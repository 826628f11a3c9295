"""Find and read a CT series in a DICOM folder by its tags; file and folder names do not matter."""
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from shared_data.errors import InputError, silenced
from shared_data.files import check_name
from shared_data.instances import COPIED
from shared_data.mending import even, gap_after, mended
from shared_data.named_types import StrPath

NEEDED = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated"]
# Which CT an image comes from: kept as its metadata, under ITK's names for the tags.
IDENTITY = {"PatientID": "0010|0020", "FrameOfReferenceUID": "0020|0052", "SeriesInstanceUID": "0020|000e"}
TAGS = ["Modality", "ImageType", "PixelData", "SeriesNumber", "SeriesDescription", "SOPInstanceUID",
        "ReferencedFrameOfReferenceSequence", *IDENTITY, *NEEDED]

Slice = tuple[Path, Dataset]  # (file, its header with TAGS)


def read_dicom_series(folder: StrPath, series: str | None = None, files: Sequence[Path] = ()) -> sitk.Image:
    """The CT series `series` (a UID) under `folder`, or the only one, as an image in HU.

    Slices are sorted by position along their normal. A tilted gantry and unequal distances are mended, with a note.
    files: those of the series, if already known. Raises InputError for no series, for several without a UID, and for
    repeated, missing or differing slices.
    """
    return read_slices(series_slices(folder, series, files), folder, mend=True)[0]


def series_slices(folder: StrPath, series: str | None = None, files: Sequence[Path] = ()) -> list[Slice]:
    """[(file, header)] of the series that `read_dicom_series` would read, unsorted."""
    headers = ((file, header) for file in files if (header := read_header(file)) is not None)
    found = ct_series_of(headers) if files else find_ct_series(folder)
    return choose_series(found, folder, series)


def choose_series(found: Mapping[str, list[Slice]], folder: StrPath, series: str | None = None) -> list[Slice]:
    """[(file, header)] of the series with that UID, or of the only one, among those of `find_ct_series`."""
    if not found:
        raise InputError(f"{folder}: no DICOM CT slices in this folder. Name a folder of slices, or a file.")
    if series in found or (series is None and len(found) == 1):
        return found[series or next(iter(found))]
    listed = ", ".join(f"{uid} ({slices[0][1].get('SeriesDescription') or 'no description'}, {len(slices)} slices in "
                       f"{slices[0][0].parent})" for uid, slices in found.items())
    if series:
        raise InputError(f"{folder}: no CT series {series}. There: {listed}.")
    raise InputError(f"{folder}: {len(found)} CT series: {listed}. Choose one with --series, or name its folder.")


def read_slices(slices: Sequence[Slice], folder: StrPath, mend: bool = False) -> tuple[sitk.Image, list[Slice]]:
    """(image in HU, [(file, header)] sorted along the normal) of one series of `find_ct_series`.

    mend: resample slices that form no regular grid instead of refusing them; the slices of the image then differ from
    those of the list. Raises InputError as `read_dicom_series` does; `folder` names the series in it.
    """
    files, places = _sorted_slices(slices, folder)
    for file in files:
        check_name(file)
    reader, headers = sitk.ImageSeriesReader(), dict(slices)
    reader.SetFileNames([str(file) for file in files])
    try:
        with silenced():  # ITK prints warnings about uneven slices
            image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{folder}: a slice cannot be read. Fetch the series again.") from error
    if image.GetDimension() != 3:
        raise InputError(f"{folder}: several frames in one file. Convert it to one slice per file.")
    steps = np.diff(places[:, 2])
    tilted = np.linalg.norm(places[:, :2], axis=1).max() > 0.5 * image.GetSpacing()[0]
    if tilted or not even(steps):
        if not mend:
            raise InputError(f"{folder}: the gantry is tilted, or slices lie at several distances. Resample the series "
                             "to a regular grid.")
        image, done = mended(image, places)
        print(f"note: {folder}: {done}", file=sys.stderr)
        image.SetMetaData("note", done)
    else:
        image.SetSpacing((*image.GetSpacing()[:2], float(np.mean(steps))))
    for name, key in IDENTITY.items():
        image.SetMetaData(key, str(headers[files[0]].get(name, "")))
    return image, [(file, headers[file]) for file in files]


def find_ct_series(folder: StrPath, pattern: str = "**/*") -> dict[str, list[Slice]]:
    """{series UID: [(file, header)]} of the CT slices under `folder`; localizers are left out.

    pattern: "*" considers the files directly in the folder only.
    """
    return ct_series_of(dicom_headers(folder, pattern))


def ct_series_of(headers: Iterable[Slice]) -> dict[str, list[Slice]]:
    """`find_ct_series` among the (file, header) pairs of `dicom_headers`."""
    series = defaultdict(list)
    for file, header in headers:
        if header.get("Modality") == "CT" and "LOCALIZER" not in header.get("ImageType", ""):
            series[header.get("SeriesInstanceUID", "")].append((file, header))
    return dict(series)


def dicom_headers(folder: StrPath, pattern: str = "**/*") -> Iterator[Slice]:
    """(file, header with TAGS) of every DICOM file under `folder`. Raises InputError for a damaged .dcm."""
    for file in sorted(Path(folder).glob(pattern)):
        if file.is_file() and (header := read_header(file)) is not None:
            yield file, header


def read_header(file: Path) -> Dataset | None:
    """The header (TAGS only) of a DICOM file, None for any other file. Raises InputError for a damaged .dcm."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, specific_tags=TAGS, defer_size=1024)
            for tag in ("Modality", "SeriesInstanceUID", "ImageType"):
                header.get(tag)
    except PermissionError as error:
        raise InputError(f"{file}: no permission to read it.") from error
    except Exception as error:  # pydicom fails in many ways on what is no DICOM
        if file.suffix.lower() == ".dcm":
            raise InputError(f"{file}: damaged or cut short. Fetch it again.") from error
        return None
    return header


def _sorted_slices(slices, folder):
    """(files sorted along the normal, their offsets (n, 3) from the first along rows, columns and normal, mm)."""
    if len(slices) < 2:
        raise InputError(f"{folder}: a single slice. A whole series is needed.")
    grids = [_slice_grid(*item) for item in slices]
    if not np.allclose(grids, grids[0], atol=1e-3):
        raise InputError(f"{folder}: slices of different sizes or directions in one series. Separate them.")
    orientation = grids[0][:6]
    axes = np.stack([orientation[:3], orientation[3:], np.cross(orientation[:3], orientation[3:])], axis=1)
    positions = {file: np.array(header.ImagePositionPatient, float) @ axes for file, header in slices}
    files = sorted(positions, key=lambda file: positions[file][2])
    places = np.array([positions[file] - positions[files[0]] for file in files])
    steps = np.diff(places[:, 2])
    for file, step in zip(files[1:], steps):
        if step < 0.01:
            raise InputError(f"{file}: a second slice at the same position. Keep one of the two.")
    if (k := gap_after(steps)) is not None:
        raise InputError(f"{files[k + 1]}: {steps[k]:g} mm from the slice before, elsewhere {np.median(steps):g} mm; "
                         "slices are missing. Fetch the series again, or resample it.")
    return files, places


def _slice_grid(file, header):
    """[orientation (6), pixel spacing (2), rows, columns, bits] of a slice. Raises InputError if impossible."""
    absent = [tag for tag in NEEDED if tag not in header]
    if absent:
        raise InputError(f"{file}: DICOM tag {absent[0]} is missing. Take the slice out, or fetch it again.")
    try:
        position, orientation, spacing, rows, columns, bits = (
            np.atleast_1d(np.array(header[tag].value, float)) for tag in NEEDED)
        axes = orientation.reshape(2, 3)
        usable = (position.shape == (3,) and spacing.shape == (2,) and np.isfinite(position).all()
                  and np.isfinite(spacing).all() and spacing.min() > 0
                  and np.allclose(axes @ axes.T, np.eye(2), atol=0.01))
    except Exception as error:  # text instead of numbers, too few of them, unknown representations
        raise InputError(f"{file}: its DICOM tags for position, direction or spacing cannot be read.") from error
    if not usable:
        raise InputError(f"{file}: position, direction or spacing in its DICOM tags is impossible. Fetch it again.")
    stored = getattr(header.get_item("PixelData", keep_deferred=True), "length", None)
    if stored is None or (stored != 0xFFFFFFFF and stored // 2 != int(rows[0] * columns[0] * bits[0] / 8 + 1) // 2):
        raise InputError(f"{file}: its pixel data is not {int(rows[0])}x{int(columns[0])}. Fetch it again.")
    return np.concatenate([orientation, spacing, rows, columns, bits])


def write_dicom_series(image: sitk.Image, folder: StrPath, modality: str = "CT") -> None:
    """Write a 3-D image of integers as one DICOM file per slice, with its geometry; for tests and phantoms."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array, direction = sitk.GetArrayViewFromImage(image), np.reshape(image.GetDirection(), (3, 3))
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for k, plane in enumerate(array):
        slice_ = Dataset()
        slice_.file_meta = file_meta(CTImageStorage, ExplicitVRLittleEndian)
        for tag in COPIED:
            setattr(slice_, tag, "")
        slice_.SOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = series, study, frame
        slice_.PatientID, slice_.Modality, slice_.InstanceNumber = "phantom", modality, k + 1
        slice_.Rows, slice_.Columns = plane.shape
        between_columns, between_rows, thickness = map(format_number_as_ds, image.GetSpacing())
        slice_.PixelSpacing, slice_.SliceThickness = [between_rows, between_columns], thickness
        slice_.ImageOrientationPatient = [*map(format_number_as_ds, [*direction[:, 0], *direction[:, 1]])]
        slice_.ImagePositionPatient = [*map(format_number_as_ds, image.TransformIndexToPhysicalPoint((0, 0, k)))]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 1
        slice_.RescaleIntercept, slice_.RescaleSlope = -1024, 1
        slice_.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
        slice_.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)


def file_meta(sop_class: UID, transfer_syntax: UID) -> FileMetaDataset:
    """The file meta information of a new instance."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = transfer_syntax
    return meta
