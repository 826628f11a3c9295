"""The scans of LIDC-IDRI (DICOM, found by their tags) and LUNA16 (.mhd), and one of them as an array."""
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.lungs import AIR_HU, OUTSIDE_HU
from shared_data.cohort import each_case
from shared_data.dicom import find_ct_series, read_slices
from shared_data.errors import InputError, Skipped, one_line
from shared_data.files import read_table
from shared_data.folds import natural_sort
from shared_data.named_types import Array, StrPath
from shared_data.volume import read_ct

METADATA = "lidc-idri_metadata.csv"  # the collection's own list of its series


@dataclass(frozen=True)
class Scan:
    uid: str  # series instance uid
    patient: str
    number: str  # series number, "" where unknown
    files: tuple[Path, ...]  # the DICOM slices in any order, or the one volume file

    @property
    def is_dicom(self) -> bool:
        return len(self.files) > 1 or self.files[0].suffix.lower() != ".mhd"


@dataclass
class Volume:
    """A scan as stored: slices ascend along their normal."""

    image: sitk.Image  # HU, int16, padding replaced by air
    sop_uids: list[str]  # of its slices; empty for volume files

    @property
    def hu_zyx(self) -> Array:
        return sitk.GetArrayViewFromImage(self.image)


def find_scans(data_dir: StrPath, workers: int = 0) -> tuple[list[Scan], dict[str, str]]:
    """(scans in natural order of their patients, {folder: why it was left out}) of a LIDC-IDRI or LUNA16 folder."""
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder. Give the cohort with --data-dir.")
    files = list(files_below(data_dir))
    volumes = natural_sort(str(path) for path in files if path.suffix.lower() == ".mhd")
    if volumes:
        return [Scan(path.stem, path.stem, "", (path,)) for path in map(Path, volumes)], {}
    folders = sorted({path.parent for path in files})
    scans: dict[str, Scan] = {}
    skipped: dict[str, str] = {}
    for folder, found in each_case(ct_series, folders, workers if len(folders) > 50 else 0, "folder"):
        if isinstance(found, Skipped):
            skipped[str(folder)] = found.reason
            continue
        for scan in found:
            known = scans.get(scan.uid)
            scans[scan.uid] = scan if known is None else Scan(scan.uid, scan.patient, scan.number,
                                                              known.files + scan.files)
    leave_out_incomplete(scans, files, skipped)
    if not scans:
        reasons = " | ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(f"{data_dir}: neither CT slices (DICOM) nor .mhd volumes in it. {reasons}".strip())
    order = natural_sort({scan.patient for scan in scans.values()})
    return sorted(scans.values(), key=lambda scan: (order.index(scan.patient), scan.uid)), skipped


def leave_out_incomplete(scans: dict[str, Scan], files: Iterable[Path], skipped: dict[str, str]) -> None:
    """Move scans {uid: scan} with fewer slices than LIDC-IDRI_MetaData.csv says to `skipped`; it need not be there."""
    for path in (path for path in files if path.name.lower() == METADATA):
        listed = {row["Series UID"].strip(): row.get("Number of Images") or ""
                  for row in read_table(path, ["Series UID", "Modality"]) if row["Modality"] == "CT"}
        absent = len(listed.keys() - scans.keys())
        if absent:
            print(f"{path.name} lists {len(listed)} CT series, {absent} of them are not here")
        for uid in listed.keys() & scans.keys():
            here, number = len(scans[uid].files), listed[uid].strip()
            if number.isdecimal() and here < int(number):
                skipped[f"{scans.pop(uid).patient} {uid}"] = (f"{here} slices here, {number} by {path.name}. Fetch the "
                                                              "series again.")


def files_below(folder: StrPath) -> Iterator[Path]:
    """Every file under a folder, hidden ones left out; links to folders are followed."""
    for place, _, names in os.walk(folder, followlinks=True):
        yield from (Path(place) / name for name in sorted(names) if name[0] != ".")


def ct_series(folder: Path) -> list[Scan] | Skipped:
    """The CT series whose files lie in a folder itself (not below); `Skipped` where one cannot be read."""
    try:
        series = find_ct_series(folder, "*")
        for uid in series:
            if not re.fullmatch(r"\d[\d.]*", str(uid)):  # it names the folder of the prepared slices
                raise InputError(f"{folder}: {str(uid)!r} is no SeriesInstanceUID. Fetch the series again.")
        return [Scan(str(uid), str(slices[0][1].get("PatientID", "")) or str(uid),
                     str(slices[0][1].get("SeriesNumber", "") or ""), tuple(file for file, _ in slices))
                for uid, slices in series.items()]
    except (InputError, OSError) as error:
        return Skipped(one_line(error))


def read_scan(scan: Scan) -> Volume:
    """The `Volume` of a scan. Raises InputError for what shared_data refuses: missing or repeated slices, ..."""
    if scan.is_dicom:
        folder = Counter(file.parent for file in scan.files).most_common(1)[0][0]
        slices = [item for place in {file.parent for file in scan.files}
                  for item in find_ct_series(place, "*").get(scan.uid, [])]
        image, slices = read_slices(slices, folder)
        return Volume(whole_hu(image), [str(header.get("SOPInstanceUID", "")) for _, header in slices])
    return Volume(whole_hu(read_ct(scan.files[0])), [])


def whole_hu(image: sitk.Image) -> sitk.Image:
    """The image as int16, what lies outside the scanner's field (stored -2000 and below) as air."""
    hu = sitk.GetArrayViewFromImage(image)
    whole = np.clip(np.round(hu), -32768, 32767).astype(np.int16)
    whole[whole <= OUTSIDE_HU] = AIR_HU
    result = sitk.GetImageFromArray(whole)
    result.CopyInformation(image)
    return result
