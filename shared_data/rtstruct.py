"""RTSTRUCT in and out: the contours of a structure set as masks on the grid of a CT, and labels as contours.

With pydicom alone: rt-utils draws through the centres of the outermost pixels and fails on sagittal series, DicomRTTool
loses the contours of sagittal and oblique ones (tests/bench/rtstruct_libraries.py).
"""
import sys
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import numpy as np
import SimpleITK as sitk
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from shared_data.colour_tables import COLOURS
from shared_data.contours import filled, outlines, slabs
from shared_data.dicom import IDENTITY, file_meta
from shared_data.errors import InputError
from shared_data.files import whole_file
from shared_data.instances import COPIED, PRODUCT, ct_instances, labels_on, product_version
from shared_data.named_types import StrPath
from shared_data.structure_sets import open_rtstruct, readable, referred, rois_of

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
CONTOUR_DATA = Tag("ContourData")
SHOWN = 20  # ROIs named in a note
FLAT = 0.05  # voxels by which a contour may leave its plane
SAME_PLANE_MM = 0.05


def read_rtstruct(path: StrPath, ct_image: sitk.Image, names: Collection[str] | None = None) -> dict[str, sitk.Image]:
    """{ROI name: uint8 mask of 0 and 1 on the CT's grid} of the ROIs called `names` (None: all) with closed contours.

    A voxel belongs to a ROI if its centre lies inside an odd number of its contours (`contours.filled`); for slices
    between contours see `contours.slabs`. A note names what was left out. Raises InputError for a damaged file, for one
    of another patient or frame of reference than the CT (known if `read_volume` read it from a DICOM folder), and for
    one without a contour within the CT.
    """
    structures = open_rtstruct(path)
    with readable(path):
        rois = [(name, frame, *_contours(item, name, path)) for name, frame, item in rois_of(structures, path)
                if names is None or name in names]
        _check_identity(structures, ct_image, path)
    ct_frame, masks, left_out = _identity(ct_image, "FrameOfReferenceUID"), {}, {}
    for name, frame, contours, others in rois:
        if others:
            left_out[name] = others
        if ct_frame and frame and ct_frame != frame:
            left_out[name] = "another frame of reference"
        elif name in masks and contours:
            raise InputError(f"{path}: two ROIs are called {name!r}. Rename one.")
        elif contours:
            masks[name], beyond = _mask(contours, ct_image, name, path)
            if beyond:
                left_out[name] = f"{beyond} of {len(contours)} contours beyond the CT"
    reasons = "; ".join([f"{name} ({reason})" for name, reason in left_out.items()][:SHOWN])
    reasons += f"; {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
    if not any(sitk.GetArrayViewFromImage(mask).any() for mask in masks.values()):
        raise InputError(f"{path}: no closed contour within the CT{': ' if reasons else ''}{reasons}. Is it the "
                         "RTSTRUCT of this CT?")
    if reasons:
        print(f"note: {path}: left out {reasons}", file=sys.stderr)
    return masks


def _identity(image, name):
    key = IDENTITY[name]
    return image.GetMetaData(key) if image.HasMetaDataKey(key) else ""


def _check_identity(structures, ct_image, path):
    frames, _ = referred(structures)
    frames |= {roi.get("ReferencedFrameOfReferenceUID", "") for roi in structures.get("StructureSetROISequence") or []}
    for what, own, of_ct in (
        ("patient", {structures.get("PatientID", "")}, _identity(ct_image, "PatientID").strip()),
        ("frame of reference", frames, _identity(ct_image, "FrameOfReferenceUID").strip()),
    ):
        own = {str(value).strip() for value in own if value}
        if own and of_ct and of_ct not in own:
            raise InputError(f"{path}: of {what} {', '.join(sorted(own))}, but the CT is of {of_ct}. Use the RTSTRUCT "
                             "of this CT.")


def _contours(item, name, path):
    """([points (n, 3), mm] of the closed contours of an item of ROIContourSequence, kinds of its others)."""
    contours, others = [], set()
    for contour in (item and item.get("ContourSequence")) or []:
        kind = contour.get("ContourGeometricType", "")
        if kind not in CLOSED:
            others.add(kind or "unknown contours")
            continue
        try:
            numbers = contour.get_item(CONTOUR_DATA).value or b""  # as stored: a DS object for each would take minutes
            points = np.array(numbers.split(b"\\") if numbers else [], float).reshape(-1, 3)
        except (AttributeError, ValueError) as error:
            raise InputError(f"{path}: the points of a contour of ROI {name!r} cannot be read. Export it again."
                             ) from error
        if not np.isfinite(points).all():
            raise InputError(f"{path}: a contour of ROI {name!r} has a point that is no number (NaN or infinite). "
                             "Export it again.")
        contours += [points] if len(points) else []
    return contours, ", ".join(sorted(others)) or ("" if contours else "no contours")


def _mask(contours, ct_image, name, path):
    """(mask on the CT's grid, number of contours that lie beyond it) of closed contours in mm."""
    spacing = np.array(ct_image.GetSpacing())
    to_voxels = np.linalg.inv(np.reshape(ct_image.GetDirection(), (3, 3)) * spacing).T
    contours = [(points - ct_image.GetOrigin()) @ to_voxels for points in contours]  # (x, y, z) in voxels
    stray = np.max([np.ptp(points, axis=0) for points in contours], axis=0)
    normal = next((axis for axis in (2, 1, 0) if stray[axis] <= FLAT), None)
    if normal is None:
        raise InputError(f"{path}: contours of ROI {name!r} are not parallel to the CT's slices. Give the CT that they "
                         "were drawn on.")
    within = [axis for axis in (0, 1, 2) if axis != normal]
    depths = np.array([points[:, normal].mean() for points in contours])
    order = np.argsort(depths)
    new_plane = np.diff(depths[order], prepend=-np.inf) * spacing[normal] > SAME_PLANE_MM
    planes = np.split(order, np.flatnonzero(new_plane)[1:])
    array = np.zeros(ct_image.GetSize()[::-1], np.uint8)
    slices = np.moveaxis(array, 2 - normal, 0)  # (slice, row, column)
    for plane, low, high in zip(planes, *slabs(np.array([depths[plane[0]] for plane in planes]), spacing[normal])):
        first, last = (int(np.clip(np.ceil(edge - 1e-3), 0, len(slices))) for edge in (low, high))
        if first < last:
            slices[first:last] |= filled([contours[k][:, within] for k in plane], slices.shape[1:])
    mask = sitk.GetImageFromArray(array)
    mask.CopyInformation(ct_image)
    return mask, sum(bool(((points.max(0) < -0.5) | (points.min(0) > np.subtract(ct_image.GetSize(), 0.5))).any())
                     for points in contours)


def write_rtstruct(label_image: sitk.Image, names: Mapping[int, str], ct_files: Iterable[StrPath], path: StrPath,
                   algorithm: str = PRODUCT) -> None:
    """Write the labels {label: name} of an image as a structure set of the CT series in `ct_files` (in any order).

    Outlines follow the pixel edges of the CT's original slices, even if the label map is on a mended grid; holes become
    keyholes. Labels without a voxel get no ROI, unless there is no voxel at all. ROIs are marked as automatic, the set
    as unapproved. Raises InputError as `ct_instances` does.
    """
    slices = ct_instances(ct_files)
    planes = [labels_on(label_image, header) for header in slices]
    present = np.unique(np.concatenate([np.unique(plane) for plane in planes]))
    shown = [label for label in names if label in present] or list(names)
    structures = _structure_set(slices, algorithm)
    structures.StructureSetROISequence, structures.ROIContourSequence, structures.RTROIObservationsSequence = [], [], []
    for number, label in enumerate(shown, 1):
        structures.StructureSetROISequence.append(_item(
            ROINumber=number, ReferencedFrameOfReferenceUID=slices[0].FrameOfReferenceUID, ROIName=names[label],
            ROIGenerationAlgorithm="AUTOMATIC", ROIGenerationDescription=f"{algorithm} {product_version()}"[:64]))
        structures.RTROIObservationsSequence.append(_item(
            ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter=""))
        roi = _item(ROIDisplayColor=COLOURS[label % len(COLOURS)].tolist(), ReferencedROINumber=number)
        drawn = [_contour(polygon, header) for plane, header in zip(planes, slices)
                 for polygon in outlines(plane == label)]
        if drawn:
            roi.ContourSequence = drawn
        structures.ROIContourSequence.append(roi)
    with whole_file(path) as temporary:
        structures.save_as(temporary, enforce_file_format=True)


def _structure_set(slices, algorithm):
    """The data set without its ROIs: patient, study, slices and what made it."""
    first, now = slices[0], datetime.now()
    structures = Dataset()
    structures.file_meta = file_meta(RTStructureSetStorage, ImplicitVRLittleEndian)  # contours may exceed 64 KiB
    structures.SpecificCharacterSet = "ISO_IR 192"
    structures.set_original_encoding(True, True, ["utf_8"])
    for tag in COPIED:
        setattr(structures, tag, first[tag].value)
    structures.SOPClassUID = RTStructureSetStorage
    structures.SOPInstanceUID = structures.file_meta.MediaStorageSOPInstanceUID
    structures.SeriesInstanceUID, structures.SeriesNumber, structures.InstanceNumber = generate_uid(), 1, 1
    structures.Modality, structures.OperatorsName = "RTSTRUCT", ""
    structures.FrameOfReferenceUID = first.FrameOfReferenceUID
    structures.Manufacturer, structures.ManufacturerModelName = PRODUCT, algorithm
    structures.SoftwareVersions = product_version()
    structures.SeriesDescription = structures.StructureSetDescription = f"{algorithm}, automatic, unapproved"[:64]
    structures.StructureSetLabel, structures.ApprovalStatus = "AUTOMATIC", "UNAPPROVED"
    structures.StructureSetDate, structures.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    images = [_item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
              for header in slices]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=images)
    study = _item(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=first.StudyInstanceUID,
                  RTReferencedSeriesSequence=[series])
    structures.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])]
    return structures


def _contour(polygon, header):
    """The item of one outline (x, y), in pixels of its slice."""
    row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, header.PixelSpacing)
    points = (np.array(header.ImagePositionPatient, float)
              + polygon[:, :1] * between_columns * row + polygon[:, 1:] * between_rows * column)
    item = _item(ContourImageSequence=[_item(ReferencedSOPClassUID=header.SOPClassUID,
                                             ReferencedSOPInstanceUID=header.SOPInstanceUID)],
                 ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points))
    data = "\\".join(f"{mm:.5f}" for mm in points.ravel()).encode()
    item[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(data), data + b" " * (len(data) % 2), 0, True, True)
    return item


def _item(**values):
    item = Dataset()
    item.set_original_encoding(True, True, default_encoding)  # else pydicom makes an object of each number when writing
    for name, value in values.items():
        setattr(item, name, value)
    return item
