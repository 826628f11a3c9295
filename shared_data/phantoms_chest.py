"""An artificial chest with nodules: the cohorts of lung_nodule_nasnet, in the layouts of LIDC-IDRI and LUNA16."""
import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pydicom
import SimpleITK as sitk
from scipy import ndimage

from shared_data.dicom import write_dicom_series
from shared_data.named_types import Labels, Mask, Seed, Shape, StrPath

FIELD_MM, SLICE_MM = 360.0, 4.0
RATINGS = ("subtlety", "internalStructure", "calcification", "sphericity", "margin", "lobulation", "spiculation",
           "texture", "malignancy")


def write_lidc_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 128, slices: int = 24) -> None:
    """LIDC-IDRI: <patient>/<study>/<series>/*.dcm with the XML of four readers, and one list3.2.csv.

    Patients LIDC-IDRI-0001, ...; size: pixels of a square slice of 360 mm; slices are 4 mm apart.
    """
    folder, listed = Path(folder), []
    for number in range(1, patients + 1):
        hu, nodules = chest([seed, number], (slices, size, size))
        place = folder / f"LIDC-IDRI-{number:04d}" / "study" / "series"
        write_dicom_series(_image(hu, number), place)
        files = sorted(place.glob("*.dcm"), key=lambda path: int(path.stem))
        headers = [_named(path, f"LIDC-IDRI-{number:04d}") for path in files]
        (place / "readings.xml").write_text(readings(nodules, headers, np.random.default_rng([seed, number, 1])))
        for roi, mask in enumerate(nodules, 1):
            z, y, x = (axis.mean() for axis in np.nonzero(mask))
            volume = float(mask.sum()) * SLICE_MM * (FIELD_MM / size) ** 2
            listed.append([number, 1, roi, round(volume, 2), round((6 * volume / np.pi) ** (1 / 3), 2), round(x) + 1,
                           round(y) + 1, slices - round(z), ""])
    columns = ["case", "scan", "roi", "volume", "eq. diam.", "x loc.", "y loc.", "slice no.", "IDs"]
    _write(folder / "list3.2.csv", columns, listed)


def write_luna_cohort(folder: StrPath, patients: int, seed: int = 0, size: int = 128, slices: int = 24) -> None:
    """LUNA16: subset0/<series uid>.mhd with annotations.csv; every second scan is stored flipped."""
    folder, listed = Path(folder), []
    (folder / "subset0").mkdir(parents=True, exist_ok=True)
    for number in range(1, patients + 1):
        hu, nodules = chest([seed, number], (slices, size, size))
        image, uid = _image(hu, number), f"1.2.826.0.1.3680043.2.1125.{seed}.{number}"
        for mask in nodules:
            z, y, x = (float(axis.mean()) for axis in np.nonzero(mask))
            volume = float(mask.sum()) * SLICE_MM * (FIELD_MM / size) ** 2
            listed.append([uid, *image.TransformContinuousIndexToPhysicalPoint((x, y, z)),
                           (6 * volume / np.pi) ** (1 / 3)])
        if number % 2 == 0:
            image = sitk.Flip(image, [True, True, False])
        sitk.WriteImage(image, str(folder / "subset0" / f"{uid}.mhd"))
    _write(folder / "annotations.csv", ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"], listed)


def chest(seed: Seed, shape_zyx: Shape) -> tuple[Labels, list[Mask]]:
    """(HU int16 (z, y, x), [boolean mask of each nodule]): lungs with vessels that look like nodules in one slice.

    Some nodules lie at the wall of the lung, some beside a vessel; some are faint.
    """
    rng = np.random.default_rng(seed)
    depth, height, width = shape_zyx
    mm = FIELD_MM / width
    z, y, x = np.meshgrid(np.arange(depth) * SLICE_MM, (np.arange(height) - (height - 1) / 2) * mm,
                          (np.arange(width) - (width - 1) / 2) * mm, indexing="ij", sparse=True)
    length = depth * SLICE_MM

    def oval(at_x, at_y, radius_x, radius_y):
        return ((x - at_x) / radius_x) ** 2 + ((y - at_y) / radius_y) ** 2 + 0 * z

    def ball(centre, radii):
        return sum(((axis - at) / radius) ** 2 for axis, at, radius in zip((z, y, x), centre, radii)) <= 1

    hu = np.where(oval(0, 4, 160, 122) <= 1, 45.0, -1000.0)
    side = rng.uniform(0.92, 1.0) * (1 - 0.15 * np.abs(2 * z / length - 1))
    lungs = np.minimum(oval(-75, 0, 58 * side, 90 * side), oval(75, 0, 58 * side, 90 * side)) <= 1
    hu[lungs] = -860
    hu[oval(0, 95, 21, 18) <= 1] = 400  # vertebra
    hu[oval(0, 30, 14, 14) <= 1] = 60  # aorta
    for _ in range(40):
        at = np.array([rng.uniform(0, length), rng.uniform(-70, 70), rng.choice([-75, 75]) + rng.uniform(-45, 45)])
        way = rng.normal(0, [1.0, 0.35, 0.35]) * rng.uniform(15, 45)
        share = np.clip(((z - at[0]) * way[0] + (y - at[1]) * way[1] + (x - at[2]) * way[2]) / (way @ way), -1, 1)
        gap = sum((axis - start - share * step) ** 2 for axis, start, step in zip((z, y, x), at, way))
        hu[(gap <= rng.uniform(1.5, 4.5) ** 2) & lungs] = 20
    nodules, taken = [], np.zeros(shape_zyx, bool)
    for kind in rng.permutation(["free", "free", "wall", "vessel"])[:rng.integers(2, 5)]:
        radius = rng.uniform(6, 15)
        centre, lung = np.zeros(3), rng.choice([-75, 75])
        direction = rng.uniform(0, 2 * np.pi)
        reach = 0.97 if kind == "wall" else rng.uniform(0.1, 0.7)
        centre[0] = rng.uniform(0.2, 0.8) * length
        shrunk = rng.uniform(0.92, 1.0) * (1 - 0.15 * abs(2 * centre[0] / length - 1))
        centre[1:] = 90 * shrunk * reach * np.sin(direction), lung + 58 * shrunk * reach * np.cos(direction)
        if kind == "vessel":
            hu[((y - centre[1] - radius) ** 2 + (x - centre[2]) ** 2 <= 16) & lungs] = 25
        mask = ball(centre, radius * rng.uniform(0.8, 1.2, 3)) & lungs
        if mask.sum() < 12 or (ndimage.binary_dilation(taken, iterations=2) & mask).any():
            continue
        taken |= mask
        hu[mask] = rng.choice([30, 30, -150])
        nodules.append(mask)
    hu = ndimage.gaussian_filter(hu, (0.2, 0.5, 0.5)) + rng.normal(0, 20, shape_zyx)
    hu = np.clip(hu, -1024, 3071).astype(np.int16)
    hu[np.broadcast_to(oval(0, 0, 182, 182) > 1, shape_zyx)] = -3024  # outside the scanner's field
    return hu, nodules


def readings(nodules: Sequence[Mask], headers: Sequence[pydicom.Dataset], rng: np.random.Generator) -> str:
    """The XML of four readers, who outline each nodule slightly differently; the fourth misses some, and marks one
    point as a nodule under 3 mm."""
    text = ['<?xml version="1.0" encoding="UTF-8"?>', '<LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
            f"<SeriesInstanceUid>{headers[0].SeriesInstanceUID}</SeriesInstanceUid>"
            f"<StudyInstanceUID>{headers[0].StudyInstanceUID}</StudyInstanceUID></ResponseHeader>"]
    for reader in range(4):
        text.append("<readingSession>")
        for number, mask in enumerate(nodules):
            if reader == 3 and rng.random() < 0.3:
                continue
            drawn = mask if reader < 2 else ndimage.shift(mask.astype(float), rng.uniform(-0.6, 0.6, 3) * [0, 1, 1],
                                                          order=1) > 0.5
            ratings = "".join(f"<{name}>3</{name}>" for name in RATINGS)
            text.append(f"<unblindedReadNodule><noduleID>{number}</noduleID><characteristics>{ratings}"
                        "</characteristics>")
            for k in np.flatnonzero(drawn.any((1, 2))):
                grown = ndimage.binary_dilation(drawn[k], np.ones((3, 3))).astype(np.uint8)
                outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                text += [_roi(headers[int(k)], outline[:, 0]) for outline in outlines]
            text.append("</unblindedReadNodule>")
        if reader == 3:
            text.append("<unblindedReadNodule><noduleID>small</noduleID>" + _roi(headers[0], np.array([[40, 60]]))
                        + "</unblindedReadNodule>")
        text.append("</readingSession>")
    return "\n".join([*text, "</LidcReadMessage>"])


def _roi(header, points):
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (f"<roi><imageZposition>{header.ImagePositionPatient[2]}</imageZposition><imageSOP_UID>"
            f"{header.SOPInstanceUID}</imageSOP_UID><inclusion>TRUE</inclusion>{edges}</roi>")


def _named(path, patient):
    """Write the patient's ID into a slice and return its header."""
    slice_ = pydicom.dcmread(path)
    slice_.PatientID = patient
    slice_.save_as(path)
    return slice_


def _image(hu, number):
    image = sitk.GetImageFromArray(hu)
    mm = FIELD_MM / hu.shape[1]
    image.SetSpacing((mm, mm, SLICE_MM))
    image.SetOrigin((-FIELD_MM / 2, -FIELD_MM / 2, -20.0 * number))
    return image


def _write(path, columns, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)
