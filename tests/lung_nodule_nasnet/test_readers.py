"""Read-outs, lists and LUNA16: each nodule where it is, on any grid; what does not fit is refused."""
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from skimage.draw import polygon2mask

from lung_nodule_nasnet.compare_mask_rules import main as compare
from lung_nodule_nasnet.nodules import draw_nodule, list_nodules, luna_nodules, read_luna_annotations, read_nodule_list
from lung_nodule_nasnet.preprocess import oriented
from lung_nodule_nasnet.readouts import Mark, Outline, consensus_nodules, enclosed, find_readouts, read_readout
from lung_nodule_nasnet.scans import Volume, files_below, find_scans, read_scan
from shared_data.errors import InputError


def dice(one, other):
    return 2 * len(np.intersect1d(one, other)) / (len(one) + len(other))


@pytest.fixture
def patient(raw, tmp_path):
    """(folder of one series, its XML), free to be damaged."""
    shutil.copytree(raw / "LIDC-IDRI-0001", tmp_path / "LIDC-IDRI-0001")
    folder = tmp_path / "LIDC-IDRI-0001" / "study" / "series"
    return folder, folder / "readings.xml"


def consensus(folder, share=0.5, min_readers=1):
    scan = find_scans(folder)[0][0]
    volume = read_scan(scan)
    path = find_readouts(files_below(folder))[scan.uid]
    return volume, *consensus_nodules(read_readout(path), volume, share, min_readers, path)


def test_consensus_agrees_with_an_independent_rasterisation(raw):
    volume, nodules, unsure = consensus(raw / "LIDC-IDRI-0002")
    path = next((raw / "LIDC-IDRI-0002").rglob("*.xml"))
    shape = volume.hu_zyx.shape
    votes = [np.zeros(shape, int) for _ in nodules]
    for reader in read_readout(path):
        for mark in reader:
            mask = np.zeros(shape, bool)
            for outline in mark.outlines:
                k = volume.sop_uids.index(outline.sop_uid)
                outer = polygon2mask(shape[1:], outline.points[:, ::-1])
                outer[outline.points[:, 1], outline.points[:, 0]] = False
                mask[k] |= outer
            overlap = [len(np.intersect1d(np.flatnonzero(mask), nodule["voxels"])) for nodule in nodules]
            if mark.rated:
                votes[int(np.argmax(overlap))] += mask
    for nodule, vote in zip(nodules, votes):
        other = np.flatnonzero(vote >= 0.5 * max(vote.max(), nodule["readers"]))
        assert dice(nodule["voxels"], other) > 0.99
    assert 0 in unsure  # the point of the fourth reader


def test_more_readers_wanted_less_nodule(raw):
    sizes = [sum(len(nodule["voxels"]) for nodule in consensus(raw / "LIDC-IDRI-0001", share)[1])
             for share in (0.25, 0.5, 1.0)]
    assert sizes[0] >= sizes[1] >= sizes[2] > 0
    _, nodules, unsure = consensus(raw / "LIDC-IDRI-0001", min_readers=5)
    assert nodules == [] and len(unsure) > 1


def test_holes_and_single_points():
    ring = np.array([(5, 5), (14, 5), (14, 14), (5, 14)])
    assert enclosed(ring, (20, 20)).sum() == 64 and enclosed(np.array([[3, 4]]), (20, 20)).sum() == 1
    image = sitk.GetImageFromArray(np.zeros((3, 20, 20), np.int16))
    hole = np.array([(8, 8), (11, 8), (11, 11), (8, 11)])
    outlines = [Outline(1.0, "", inside, points) for inside, points in ((False, hole), (True, ring[:0]), (True, ring))]
    mark = Mark("1", True, tuple(outlines))
    nodules, _ = consensus_nodules([[mark]], Volume(image, []), 0.5, 1, Path("x.xml"))
    assert len(nodules[0]["voxels"]) == 64 - 4


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["", "..", "1.2/3"])
def test_a_series_whose_uid_could_be_no_folder_is_left_out(raw, tmp_path, uid):
    shutil.copytree(raw, tmp_path / "raw")
    folder = tmp_path / "raw" / "LIDC-IDRI-0001" / "study" / "series"
    for file in folder.glob("*.dcm"):
        header = pydicom.dcmread(file)
        header.SeriesInstanceUID = uid
        header.save_as(file)
    scans, skipped = find_scans(tmp_path / "raw")
    assert len(scans) == 2 and skipped == {
        str(folder): f"{folder}: {uid!r} is no SeriesInstanceUID. Fetch the series again."}


def test_list_and_read_outs_agree(raw):
    scans, _ = find_scans(raw)
    rows = read_nodule_list(raw / "list3.2.csv")
    for number, scan in enumerate(scans, 1):
        volume, expected, _ = consensus(raw / scan.patient)
        nodules, unsure = list_nodules(rows[number], volume, "list", "edge", "list")
        planes = volume.hu_zyx.shape[1] * volume.hu_zyx.shape[2]
        for nodule in nodules:
            best = max(expected, key=lambda other: len(np.intersect1d(other["voxels"], nodule["voxels"])))
            same = best["voxels"][np.isin(best["voxels"] // planes, np.unique(nodule["voxels"] // planes))]
            assert dice(same, nodule["voxels"]) > 0.5
            assert set((nodule["voxels"] // planes).tolist()) <= unsure


def test_the_authors_convention_shifts_by_one_pixel(raw):
    volume = read_scan(find_scans(raw)[0][0])
    row = {"scan": "1", "x": 31.0, "y": 31.0, "slice": 5, "diameter_mm": 6.0}
    centres = [list_nodules([row], volume, convention, "authors", "list")[0][0]["centre_zyx"]
               for convention in ("list", "authors")]
    assert centres[0] == (5, 30, 30) and centres[1] == (5, 31, 31)


def test_luna16_scans_are_the_same_flipped_or_not(luna):
    scans, _ = find_scans(luna)
    rows = read_luna_annotations(luna / "annotations.csv")
    directions = set()
    for scan in scans:
        volume = read_scan(scan)
        directions.add(tuple(volume.image.GetDirection()))
        nodules, _ = luna_nodules(rows[scan.uid], volume, "edge", "annotations")
        for nodule, (x, y, z, _) in zip(nodules, rows[scan.uid]):
            mask = np.zeros(volume.hu_zyx.shape, np.uint8)
            mask.ravel()[nodule["voxels"]] = 1
            lps = oriented(mask, volume.image)
            stored = sitk.DICOMOrient(volume.image, "LPS")
            at = stored.TransformPhysicalPointToContinuousIndex((x, y, z))[::-1]
            assert np.abs(np.argwhere(lps).mean(0) - at).max() < 2
            assert volume.hu_zyx.ravel()[nodule["voxels"]].mean() > -500
    assert len(directions) == 2


def test_where_the_wand_finds_no_edge_the_sphere_stands_in():
    image = sitk.GetImageFromArray(np.full((9, 40, 40), -860, np.int16))
    voxels = draw_nodule(Volume(image, []), (4, 20, 20), 8.0, "edge")["voxels"]
    assert len(voxels) == pytest.approx(4 / 3 * np.pi * 64, rel=0.2)


def test_padding_becomes_air(raw):
    volume = read_scan(find_scans(raw)[0][0])
    assert volume.hu_zyx.min() == -1024 and volume.hu_zyx[0, 0, 0] == -1024


def test_series_are_found_by_their_tags(patient, raw):
    folder, _ = patient
    overview = pydicom.dcmread(folder / "0000.dcm")
    overview.Modality, overview.SeriesInstanceUID = "DX", "1.2.3"
    (folder.parent / "radiograph").mkdir()
    overview.save_as(folder.parent / "radiograph" / "0000.dcm")
    for number, path in enumerate(sorted(folder.glob("*.dcm"), reverse=True)):
        path.rename(folder / f"shuffled{number * 7 % 11}-{number}")  # no suffix, another order
    scans, skipped = find_scans(folder.parents[1])
    assert len(scans) == 1 and skipped == {} and scans[0].patient == "LIDC-IDRI-0001"
    expected = read_scan(find_scans(raw / "LIDC-IDRI-0001")[0][0])
    assert np.array_equal(read_scan(scans[0]).hu_zyx, expected.hu_zyx)


def test_two_series_of_one_folder_are_two_scans(patient):
    folder, _ = patient
    for path in sorted(folder.glob("*.dcm")):
        other = pydicom.dcmread(path)
        other.SeriesInstanceUID, other.SeriesNumber = "1.2.3.4", 7
        other.save_as(folder / f"b{path.name}")
    assert sorted(len(scan.files) for scan in find_scans(folder)[0]) == [10, 10]


@pytest.mark.parametrize("damage, message", [
    (lambda folder: (folder / "0004.dcm").unlink(), "slices are missing"),
    (lambda folder: shutil.copy(folder / "0004.dcm", folder / "again.dcm"), "a second slice at the same position"),
])
def test_missing_and_repeated_slices(patient, damage, message):
    damage(patient[0])
    with pytest.raises(InputError, match=message):
        read_scan(find_scans(patient[0])[0][0])


def test_the_collections_list_shows_what_is_incomplete(patient, capsys):
    folder, _ = patient
    scan = find_scans(folder)[0][0]
    (folder / "LIDC-IDRI_MetaData.csv").write_text(
        "Collection,Modality,Series UID,Number of Images,\n"
        f"LIDC-IDRI,CT,{scan.uid},{len(scan.files)},\nLIDC-IDRI,CT,1.2.3,133,\nLIDC-IDRI,DX,1.2.4,2,\n")
    assert find_scans(folder) == ([scan], {})
    assert capsys.readouterr().out == "LIDC-IDRI_MetaData.csv lists 2 CT series, 1 of them are not here\n"
    max(scan.files).unlink()  # at the end: the others lie evenly
    with pytest.raises(InputError, match="9 slices here, 10 by LIDC-IDRI_MetaData.csv"):
        find_scans(folder)
    (folder / "LIDC-IDRI_MetaData.csv").write_text(f"Modality,Series UID\nCT,{scan.uid}\n")
    assert len(find_scans(folder)[0]) == 1


@pytest.mark.parametrize("old, new, message", [
    ("<xCoord>", "<xCoord>9", "lies outside the 64x64 slices"),
    ("<imageSOP_UID>", "<imageSOP_UID>9", None),
    ("LidcReadMessage", "IdriReadMessage", KeyError),
])
def test_what_a_read_out_says_is_checked(patient, old, new, message):
    folder, xml = patient
    xml.write_text(xml.read_text().replace(old, new))
    if message is None:  # unknown slices are found by their position
        assert consensus(folder)[1]
    else:
        with pytest.raises(message if isinstance(message, type) else InputError,
                           match=None if isinstance(message, type) else message):
            consensus(folder)


def test_a_nodule_above_the_scan_is_refused(patient):
    folder, xml = patient
    text = xml.read_text().replace("<imageSOP_UID>", "<imageSOP_UID>9")
    text = re.sub("<imageZposition>[^<]*", "<imageZposition>9999", text)
    xml.write_text(text)
    with pytest.raises(InputError, match="lies outside the scan"):
        consensus(folder)
    xml.write_text(text[:900])
    with pytest.raises(InputError, match="not a whole XML file"):
        read_readout(xml)


def test_bad_tables(tmp_path, raw):
    volume = read_scan(find_scans(raw)[0][0])
    (tmp_path / "a.csv").write_text("seriesuid,coordX,coordY,coordZ,diameter_mm\n1,2,x,3,4\n")
    with pytest.raises(InputError, match="line 2 does not hold numbers"):
        read_luna_annotations(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("seriesuid,coordX\n")
    with pytest.raises(InputError, match="coordY, coordZ, diameter_mm is missing"):
        read_luna_annotations(tmp_path / "a.csv")
    with pytest.raises(InputError, match="lies outside the scan"):
        luna_nodules([(0.0, 0.0, 9999.0, 5.0)], volume, "edge", "a.csv")
    with pytest.raises(InputError, match="lies outside the scan"):
        list_nodules([{"x": 5, "y": 5, "slice": 99, "diameter_mm": 5}], volume, "list", "edge", "list")


def test_the_rules_are_compared(raw, capsys, tmp_path):
    assert compare(["--data-dir", str(raw), "--workers", "0", "--output", str(tmp_path / "rules.csv")]) == 0
    shown = capsys.readouterr().out
    assert "edge" in shown and "authors" in shown and (tmp_path / "rules.csv").exists()
