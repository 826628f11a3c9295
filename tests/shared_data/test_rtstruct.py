"""Structure sets out and in: exact in every geometry, and one clear line for what is wrong with one."""
import math
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.metrics import dice
from shared_data.rtstruct import read_rtstruct, write_rtstruct
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import geometry, read_volume, to_lps

AXIAL, PRONE, FEET_FIRST = (1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0)
SAGITTAL, CORONAL = (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)
OBLIQUE = tuple(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4).GetMatrix()[i] for i in (0, 3, 6, 1, 4, 7))


def array(image):
    return sitk.GetArrayFromImage(image)


def labels_on(ct, values=None):
    """Labels 0 to 3 in blocks of 2x2 pixels at random, with single pixels among them, or these."""
    if values is None:
        z, y, x = ct.GetSize()[::-1]
        values = np.random.default_rng(0).integers(0, 4, (z, y // 2, x // 2)).repeat(2, 1).repeat(2, 2)
        values[:, ::7, ::5] = 0
    labels = sitk.GetImageFromArray(values.astype(np.uint8))
    labels.CopyInformation(ct)
    return labels


@pytest.fixture
def case(ct, tmp_path):
    """(the CT read back, its files, an RTSTRUCT with ROIs "one", "two", "drei ü" beside them, the labels)"""
    write_dicom_series(ct, tmp_path / "ct")
    ct, files = read_volume(tmp_path / "ct"), sorted((tmp_path / "ct").iterdir())
    labels = labels_on(ct)
    write_rtstruct(labels, {1: "one", 2: "two", 3: "drei ü"}, files, tmp_path / "ct" / "structures")
    return ct, files, tmp_path / "ct" / "structures", labels


@pytest.mark.parametrize("orientation", [AXIAL, PRONE, FEET_FIRST, SAGITTAL, CORONAL, OBLIQUE])
def test_a_round_trip_loses_nothing(ball, stack, tmp_path, orientation):
    files, _ = ball.draw(tmp_path / "ct", stack(orientation=orientation), orientation)
    np.random.default_rng(1).shuffle(files)
    ct = read_volume(tmp_path / "ct")
    labels = labels_on(ct)
    write_rtstruct(labels, {1: "a", 2: "b", 3: "c"}, files, tmp_path / "rs.dcm")
    for image, reference in ((ct, labels), (to_lps(ct), to_lps(labels))):
        masks = read_rtstruct(tmp_path / "rs.dcm", image)
        assert list(masks) == ["a", "b", "c"]
        for label, mask in enumerate(masks.values(), 1):
            assert mask.GetPixelID() == sitk.sitkUInt8 and geometry(mask) == geometry(image)
            assert np.array_equal(array(mask), array(reference) == label)


def test_labels_on_another_grid_are_drawn_on_the_cts_own(case, tmp_path):
    ct, files, _, _ = case
    labels = labels_on(ct, array(ct) > 0)
    write_rtstruct(to_lps(sitk.DICOMOrient(labels, "PIR")), {1: "x"}, files, tmp_path / "rs.dcm")
    assert np.array_equal(array(read_rtstruct(tmp_path / "rs.dcm", ct)["x"]), array(labels))


@pytest.mark.parametrize("what", ["tilted", "two distances"])
def test_labels_of_a_mended_series_go_back_to_the_true_slices(ball, stack, tmp_path, what):
    positions, orientation = stack(), AXIAL
    if what == "tilted":
        orientation = (1, 0, 0, 0, math.cos(0.3), math.sin(0.3))
        middle = np.mean(stack(orientation=orientation), axis=0)
        positions = [middle + (0, 0, 2.5 * (k - 8)) for k in range(17)]
    else:
        positions = [*positions[:8:2], *positions[8:]]
    files, masks = ball.draw(tmp_path / "ct", positions, orientation)
    ct = read_volume(tmp_path / "ct")
    write_rtstruct(labels_on(ct, array(ct) > -450), {1: "ball"}, files, tmp_path / "rs.dcm")
    contours = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
    uids = {pydicom.dcmread(file).SOPInstanceUID: position for file, position in zip(files, positions)}
    for contour in contours:  # on the plane of the slice it refers to
        points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
        position = uids[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        assert abs((points - position) @ np.cross(orientation[:3], orientation[3:])).max() < 1e-3
    restored = read_rtstruct(tmp_path / "rs.dcm", ct)["ball"]
    assert dice(array(restored) > 0, array(ct) > -450) > (0.98 if what == "tilted" else 0.93)
    drawn = sum(_area(contour) for contour in contours)  # against what was there before any mending
    assert drawn == pytest.approx(masks.sum() * 1.25, rel=0.02)


def _area(contour):
    points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
    points -= points[0]
    return np.linalg.norm(np.cross(points[:-1], points[1:]).sum(0)) / 2


def edit(path, change):
    structures = pydicom.dcmread(path)
    change(structures)
    structures.save_as(path)


def add_contour(structures, points, kind="CLOSED_PLANAR", roi=0):
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
    contour.ContourData = [f"{mm:.5f}" for mm in np.ravel(points)]
    structures.ROIContourSequence[roi].ContourSequence = [contour]


def square(ct, z, low=(3.0, 4.0), high=(9.0, 12.0)):
    return [ct.TransformContinuousIndexToPhysicalPoint((x, y, z)) for x, y in (
        low, (high[0], low[1]), high, (low[0], high[1]))]


@pytest.mark.parametrize("z, slices", [(2.0, [2]), (2.4, [2]), (2.5, [2]), (2.6, [3]), (-0.4, [0]), (5.49, [5])])
def test_contours_between_the_slices_go_to_the_nearest(case, z, slices):
    ct, _, path, _ = case
    edit(path, lambda structures: add_contour(structures, square(ct, z)))
    mask = array(read_rtstruct(path, ct, ["one"])["one"])
    assert np.flatnonzero(mask.any((1, 2))).tolist() == slices and mask.sum() == 7 * 9


def test_contours_beyond_the_ct_are_left_out_and_named(case, capsys):
    ct, _, path, _ = case
    edit(path, lambda structures: add_contour(structures, square(ct, 17)))
    assert not array(read_rtstruct(path, ct)["one"]).any()
    assert f"note: {path}: left out one (1 of 1 contours beyond the CT)" in capsys.readouterr().err
    with pytest.raises(InputError, match="no closed contour within the CT: one .1 of 1"):
        read_rtstruct(path, ct, ["one"])


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_other_kinds_of_contours_are_left_out_and_named(case, kind, capsys):
    ct, _, path, _ = case
    edit(path, lambda structures: add_contour(structures, square(ct, 2), kind))
    assert list(read_rtstruct(path, ct)) == ["two", "drei ü"]
    assert f"left out one ({kind})" in capsys.readouterr().err


def test_contours_that_are_there_twice_cancel_each_other(case):
    ct, _, path, _ = case

    def twice(structures):
        add_contour(structures, square(ct, 2))
        structures.ROIContourSequence[0].ContourSequence.append(structures.ROIContourSequence[0].ContourSequence[0])
    edit(path, twice)
    assert not array(read_rtstruct(path, ct)["one"]).any()


def test_what_is_written_says_what_it_is(case):
    _, files, path, _ = case
    structures, slices = pydicom.dcmread(path), [pydicom.dcmread(file) for file in files]
    assert structures.ApprovalStatus == "UNAPPROVED" and structures.Modality == "RTSTRUCT"
    assert [str(roi.ROIName) for roi in structures.StructureSetROISequence] == ["one", "two", "drei ü"]
    assert {roi.ROIGenerationAlgorithm for roi in structures.StructureSetROISequence} == {"AUTOMATIC"}
    assert all("small-target-ct-segmentation 0." in roi.ROIGenerationDescription
               for roi in structures.StructureSetROISequence)
    assert len({tuple(item.ROIDisplayColor) for item in structures.ROIContourSequence}) == 3
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    uids = [slice_.SOPInstanceUID for slice_ in slices]
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == uids
    for contour in structures.ROIContourSequence[0].ContourSequence:
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in uids
        assert max(map(len, contour.get_item("ContourData").value.split(b"\\"))) <= 16
        assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)


def test_labels_without_voxels_get_no_roi_unless_there_is_no_other(case, tmp_path):
    ct, files, _, labels = case
    write_rtstruct(labels, {2: "two", 9: "absent"}, files, tmp_path / "rs.dcm")
    assert list(read_rtstruct(tmp_path / "rs.dcm", ct)) == ["two"]
    write_rtstruct(labels, {9: "absent"}, files, tmp_path / "rs.dcm")
    with pytest.raises(InputError, match="no closed contour within the CT: absent .no contours.. Is it"):
        read_rtstruct(tmp_path / "rs.dcm", ct)


def other_frame(structures):
    for roi in structures.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = "1.2.3"
    structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = structures.FrameOfReferenceUID = "1.2.3"


def nan(structures):
    for item in structures.ROIContourSequence:
        item.ContourSequence[0].ContourData = ["nan", *item.ContourSequence[0].ContourData[1:]]


def many_rois(structures):
    structures.StructureSetROISequence = [structures.StructureSetROISequence[0]] * 10_000


def odd_numbers(structures):
    structures.ROIContourSequence[1].ContourSequence[0].ContourData.pop()


def askew(structures):
    data = structures.ROIContourSequence[0].ContourSequence[0].ContourData
    structures.ROIContourSequence[0].ContourSequence[0].ContourData = [*data[:-1], data[-1] + 1]


def no_contours(structures):
    for item in structures.ROIContourSequence:
        del item.ContourSequence


def same_names(structures):
    structures.StructureSetROISequence[1].ROIName = "one"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change, message", [
    (lambda s: setattr(s, "PatientID", "other"), "of patient other, but the CT is of phantom"),
    (other_frame, "of frame of reference 1.2.3, but the CT is of"), (nan, "'one' has a point that is no number"),
    (many_rois, "10000 ROIs; at most 1000"), (odd_numbers, "of ROI 'two' cannot be read"),
    (askew, "'one' are not parallel to the CT's slices"), (no_contours, "no closed contour .*one .no contours.; two"),
    (same_names, "two ROIs are called 'one'"), (lambda s: s.__delattr__("ROIContourSequence"), "no contours"),
    (lambda s: setattr(s, "Modality", "RTDOSE"), "modality RTDOSE. An RTSTRUCT is needed")])
def test_bad_structure_sets_are_one_clear_line(case, change, message):
    ct, _, path, _ = case
    edit(path, change)
    with pytest.raises(InputError, match=message) as error:
        read_rtstruct(path, ct)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_roi_of_another_frame_of_reference_is_left_out_and_named(case, capsys):
    ct, _, path, _ = case
    edit(path, lambda s: setattr(s.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.3"))
    assert list(read_rtstruct(path, ct)) == ["two", "drei ü"]
    assert "left out one (another frame of reference)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_masks_or_one_line(case):
    ct, _, path, _ = case
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for place in [*range(128, 1500, 37), *rng.integers(1500, len(content), 60)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            read_rtstruct(path, ct)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_structure_set_cut_short_anywhere_is_refused(case):
    ct, _, path, _ = case
    content = path.read_bytes()
    for part in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:part])
        with pytest.raises(InputError) as error:
            read_rtstruct(path, ct)
        assert "\n" not in str(error.value)


def test_files_that_are_no_structure_sets(case, tmp_path):
    ct, files, _, _ = case
    (tmp_path / "text").write_text("hello")
    for path, message in ((files[0], "modality CT"), (tmp_path / "text", "not a DICOM"), (tmp_path / "no", "no such")):
        with pytest.raises(InputError, match=message):
            read_rtstruct(path, ct)


def test_the_structure_set_of_a_series_is_found_by_its_references(case, ct, tmp_path):
    _, files, path, _ = case
    uid = pydicom.dcmread(files[0]).SeriesInstanceUID
    assert find_rtstruct(tmp_path) == (path, uid)
    write_dicom_series(ct, tmp_path / "other")
    assert find_rtstruct(tmp_path) == (path, uid) and find_rtstruct(tmp_path / "other") is None
    shutil.copy(path, tmp_path / "again")
    with pytest.raises(InputError, match="2 RTSTRUCTs: .*again, .*structures. Keep one"):
        find_rtstruct(tmp_path)
    (tmp_path / "again").rename(tmp_path / "other" / "rs.dcm")
    with pytest.raises(InputError, match="other/rs.dcm: refers to none of the CT series"):
        find_rtstruct(tmp_path / "other")


def test_nothing_is_written_half(case, readonly_folder, monkeypatch, tmp_path):
    _, files, _, labels = case
    for bad, message in ((files + [tmp_path / "no"], "no: not a readable"), ([], "0 CT files")):
        with pytest.raises(InputError, match=message):
            write_rtstruct(labels, {1: "a"}, bad, tmp_path / "rs.dcm")
    monkeypatch.setattr(Dataset, "save_as", lambda self, path, **_: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_rtstruct(labels, {1: "a"}, files, tmp_path / "rs.dcm")
    assert not (tmp_path / "rs.dcm").exists()


@pytest.mark.skipif(not shutil.which("plastimatch"), reason="apt-get install plastimatch")
def test_plastimatch_reads_ours_and_we_read_its(case, tmp_path):
    ct, _, path, _ = case
    blocks = np.kron(np.random.default_rng(2).integers(0, 2, (2, 4, 5)), np.ones((2, 4, 4)))
    blocks = labels_on(ct, np.pad(blocks, [(1, 1), (2, 2), (2, 2)]))  # it does not close contours at the border
    write_rtstruct(blocks, {1: "blocks"}, sorted((tmp_path / "ct").glob("*.dcm")), path)
    common = ["plastimatch", "convert", "--referenced-ct", str(tmp_path / "ct")]
    subprocess.run([*common, "--input", str(path), "--output-prefix", str(tmp_path / "masks"), "--prefix-format",
                    "nrrd"], check=True, capture_output=True)
    assert np.array_equal(array(sitk.ReadImage(str(tmp_path / "masks" / "blocks.nrrd"))), array(blocks))
    subprocess.run([*common, "--input-prefix", str(tmp_path / "masks"), "--output-dicom", str(tmp_path / "out")],
                   check=True, capture_output=True)
    written = next((tmp_path / "out").glob("rtss*.dcm"))
    assert np.array_equal(array(read_rtstruct(written, ct)["blocks"]), array(blocks))


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="apt-get install dicom3tools")
def test_dciodvfy_finds_no_error(case):
    result = subprocess.run(["dciodvfy", str(case[2])], capture_output=True, text=True)
    assert "RTStructureSet" in result.stderr + result.stdout and "Error" not in result.stderr + result.stdout
