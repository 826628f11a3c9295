"""What DICOM objects derived from a CT need of it: its original slices, and the labels on each of them."""
from collections.abc import Iterable
from importlib.metadata import version

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset

from shared_data.errors import InputError
from shared_data.named_types import Labels, StrPath

PRODUCT = "small-target-ct-segmentation"
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
          "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")

COPIED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
          "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")


def product_version() -> str:
    return version(PRODUCT)


def ct_instances(ct_files: Iterable[StrPath]) -> list[Dataset]:
    """The headers of the slices of one CT series, sorted along its normal.

    Raises InputError for an unreadable file, a missing tag, and slices of several series.
    """
    headers = []
    for file in ct_files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError) as error:
            raise InputError(f"{file}: not a readable DICOM file. Fetch it again.") from error
        if absent := [tag for tag in NEEDED if not header.get(tag)]:
            raise InputError(f"{file}: DICOM tag {absent[0]} is missing; nothing can refer to this slice.")
        for tag in COPIED:
            setattr(header, tag, str(header.get(tag) or ""))
        headers.append(header)
    if len({(header.SeriesInstanceUID, header.FrameOfReferenceUID) for header in headers}) != 1:
        raise InputError(f"{len(headers)} CT files of more than one series. Name the slices of one.")
    normal = np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float))
    return sorted(headers, key=lambda header: float(np.dot(np.array(header.ImagePositionPatient, float), normal)))


def labels_on(label_image: sitk.Image, header: Dataset) -> Labels:
    """The labels (rows, columns) at the pixels of one CT slice; where the image has another grid (a mended or a
    reoriented one), those of the nearest voxels."""
    row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, header.PixelSpacing)
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    plane = sitk.Resample(label_image, (int(header.Columns), int(header.Rows), 1), sitk.Transform(),
                          sitk.sitkNearestNeighbor, [float(mm) for mm in header.ImagePositionPatient],
                          (between_columns, between_rows, 1.0), axes.ravel().tolist(), 0, sitk.sitkUInt16)
    return sitk.GetArrayFromImage(plane)[0]
