"""One CT series out of a DICOM folder, by its tags; names of files and folders say nothing."""
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from shared_data.errors import InputError

NEEDED = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated"]
TAGS = ["Modality", "SeriesInstanceUID", "ImageType", "PixelData", "PatientID", "SeriesNumber", "SOPInstanceUID",
        *NEEDED]


def read_dicom_series(folder):
    """The only CT series under `folder` as an image in HU, slices sorted by position along their normal.

    Raises InputError for no or several series, repeated, missing or unequal slices, and a tilted gantry.
    """
    series = find_ct_series(folder)
    if not series:
        raise InputError(f"{folder}: no DICOM CT slices in this folder.")
    if len(series) > 1:
        found = ", ".join(f"{uid} ({len(slices)} slices in {slices[0][0].parent})" for uid, slices in series.items())
        raise InputError(f"{folder}: {len(series)} CT series: {found}. Name the folder of one.")
    return read_slices(next(iter(series.values())), folder)[0]


def read_slices(slices, folder):
    """(image in HU, [(file, header)] from the lowest to the highest) of one series of `find_ct_series`.

    Raises InputError as `read_dicom_series` does; `folder` names the series in it.
    """
    files, spacing_z = _sorted_slices(slices, folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{folder}: a slice cannot be read. Fetch the series again.") from error
    if image.GetDimension() != 3:
        raise InputError(f"{folder}: several frames in one file. Convert it to one slice per file.")
    image.SetSpacing((*image.GetSpacing()[:2], spacing_z))
    headers = dict(slices)
    return image, [(file, headers[file]) for file in files]


def find_ct_series(folder, pattern="**/*"):
    """{series uid: [(file, header)]} of the CT slices under `folder`; overview images are left out.

    pattern: "*" looks at the files of the folder itself alone.
    """
    series = defaultdict(list)
    for file in sorted(Path(folder).glob(pattern)):
        if not file.is_file():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(file, specific_tags=TAGS, defer_size=1024)
                kind, uid, image_type = (header.get(tag, "") for tag in ("Modality", "SeriesInstanceUID", "ImageType"))
        except PermissionError as error:
            raise InputError(f"{file}: no permission to read it.") from error
        except Exception as error:  # pydicom fails in many ways on what is no DICOM
            if file.suffix.lower() == ".dcm":
                raise InputError(f"{file}: damaged or cut short. Fetch it again.") from error
            continue
        if kind == "CT" and "LOCALIZER" not in image_type:
            series[uid].append((file, header))
    return dict(series)


def _sorted_slices(slices, folder):
    """Files from the lowest to the highest position, and the distance between two (mm)."""
    if len(slices) < 2:
        raise InputError(f"{folder}: a single slice. A whole series is needed.")
    grids = [_slice_grid(*item) for item in slices]
    if not np.allclose(grids, grids[0], atol=1e-3):
        raise InputError(f"{folder}: slices of different sizes or directions in one series. Separate them.")
    orientation = grids[0][:6]
    normal = np.cross(orientation[:3], orientation[3:])
    positions = {file: np.array(header.ImagePositionPatient, float) for file, header in slices}
    files = sorted(positions, key=lambda file: float(positions[file] @ normal))
    steps = np.diff([positions[file] @ normal for file in files])
    spacing = float(np.median(steps))
    for file, step in zip(files[1:], steps):
        if step < 0.01:
            raise InputError(f"{file}: a second slice at the same position. Keep one of the two.")
        if abs(step - spacing) > 0.1 * spacing:
            raise InputError(f"{file}: {step:g} mm from the slice before, elsewhere {spacing:g} mm; slices are "
                             "missing. Fetch the series again, or resample it.")
    drift = positions[files[-1]] - positions[files[0]]
    if np.linalg.norm(drift - np.dot(drift, normal) * normal) > 0.5 * grids[0][6]:
        raise InputError(f"{folder}: the gantry is tilted (slices are shifted against each other). "
                         "Resample the series to a plain grid.")
    return files, float(np.mean(steps))


def _slice_grid(file, header):
    """[orientation (6), pixel spacing (2), rows, columns, bits] of a slice; InputError for what cannot be."""
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
    except Exception as error:  # text for numbers, too few numbers, unknown representations
        raise InputError(f"{file}: its DICOM tags for position, direction or spacing cannot be read.") from error
    if not usable:
        raise InputError(f"{file}: position, direction or spacing in its DICOM tags is impossible. Fetch it again.")
    stored = getattr(header.get_item("PixelData", keep_deferred=True), "length", None)
    if stored is None or (stored != 0xFFFFFFFF and stored // 2 != int(rows[0] * columns[0] * bits[0] / 8 + 1) // 2):
        raise InputError(f"{file}: its pixel data is not {int(rows[0])}x{int(columns[0])}. Fetch it again.")
    return np.concatenate([orientation, spacing, rows, columns, bits])


def write_dicom_series(image, folder, modality="CT"):
    """Write a 3-D image of whole numbers as one DICOM file per slice, geometry kept; for tests and trials."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array, direction = sitk.GetArrayViewFromImage(image), np.reshape(image.GetDirection(), (3, 3))
    series, study = generate_uid(), generate_uid()
    for k, plane in enumerate(array):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = Dataset()
        slice_.file_meta = meta
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = series, study
        slice_.PatientID, slice_.Modality, slice_.InstanceNumber = "phantom", modality, k + 1
        slice_.Rows, slice_.Columns = plane.shape
        slice_.PixelSpacing = [image.GetSpacing()[1], image.GetSpacing()[0]]  # between rows, between columns
        slice_.SliceThickness = image.GetSpacing()[2]
        slice_.ImageOrientationPatient = [*direction[:, 0], *direction[:, 1]]
        slice_.ImagePositionPatient = list(image.TransformIndexToPhysicalPoint((0, 0, k)))
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 1
        slice_.RescaleIntercept, slice_.RescaleSlope = -1024, 1
        slice_.PixelData = (plane.astype(np.int32) + 1024).astype("<i2").tobytes()
        slice_.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
