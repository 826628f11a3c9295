"""One CT series out of a DICOM folder, by its tags; names of files and folders say nothing."""
from collections import defaultdict
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from shared_data.errors import InputError

TAGS = ["Modality", "SeriesInstanceUID", "ImageType", "ImagePositionPatient", "ImageOrientationPatient",
        "Rows", "Columns", "PixelSpacing"]


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
    slices = next(iter(series.values()))
    files, spacing_z = _sorted_slices(slices, folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{folder}: a slice cannot be read. Fetch the series again.") from error
    image.SetSpacing((*image.GetSpacing()[:2], spacing_z))
    return image


def find_ct_series(folder):
    """{series uid: [(file, header)]} of the CT slices under `folder`; overview images are left out."""
    series = defaultdict(list)
    for file in sorted(Path(folder).rglob("*")):
        if not file.is_file():
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
        except (InvalidDicomError, EOFError):
            continue
        if header.get("Modality") == "CT" and "LOCALIZER" not in header.get("ImageType", []):
            series[header.get("SeriesInstanceUID", "")].append((file, header))
    return dict(series)


def _sorted_slices(slices, folder):
    """Files from the lowest to the highest position, and the distance between two (mm)."""
    for file, header in slices:
        absent = [tag for tag in TAGS[3:] if header.get(tag) is None]
        if absent:
            raise InputError(f"{file}: DICOM tag {absent[0]} is missing. Take the slice out, or fetch it again.")
    grids = {(h.Rows, h.Columns, *np.round([*h.PixelSpacing, *h.ImageOrientationPatient], 3)) for _, h in slices}
    if len(grids) > 1:
        raise InputError(f"{folder}: slices of {len(grids)} sizes or directions in one series. Separate them.")
    if len(slices) < 2:
        raise InputError(f"{folder}: a single slice. A whole series is needed.")
    orientation = np.array(slices[0][1].ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    slices = sorted(slices, key=lambda item: float(np.dot(normal, item[1].ImagePositionPatient)))
    positions = np.array([header.ImagePositionPatient for _, header in slices], float)
    steps = np.diff(positions @ normal)
    spacing = float(np.median(steps))
    for (file, _), step in zip(slices[1:], steps):
        if step < 0.01:
            raise InputError(f"{file}: a second slice at the same position. Keep one of the two.")
        if abs(step - spacing) > 0.1 * spacing:
            raise InputError(f"{file}: {step:g} mm from the slice before, elsewhere {spacing:g} mm; slices are "
                             "missing. Fetch the series again, or resample it.")
    drift = positions[-1] - positions[0]
    if np.linalg.norm(drift - np.dot(drift, normal) * normal) > 0.5 * float(slices[0][1].PixelSpacing[0]):
        raise InputError(f"{folder}: the gantry is tilted (slices are shifted against each other). "
                         "Resample the series to a plain grid.")
    return [file for file, _ in slices], float(np.mean(steps))


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
