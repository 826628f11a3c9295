"""Cases to volumes: intensities of the authors, true geometry, restartable, bad cases named."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from sepnet import preprocess
from sepnet.config import CONTROL_POINTS, Config
from sepnet.volumes import cropped, network_grid, onto_lps, segmental_linear, transformed
from shared_data.crop import centre_crop, undo_crop
from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_data.metrics import dice
from shared_data.phantoms import write_structseg_cohort
from shared_data.settings import keep_config
from shared_data.volume import geometry, image_from, read_volume, write_volume


def prepare(raw, out, *options):
    return preprocess.main(["--data-dir", str(raw), "--prepared-dir", str(out), "--workers", "0", "--crop-size", "48",
                            *options])


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("hu, name, knots", [
    ("hu", "slf1", ((-500, -100, 400, 1500), (0, 0.1, 0.8, 1))),
    ("hu_float", "slf1_float", ((-500, -100, 400, 1500), (0, 0.1, 0.8, 1))),
    ("hu", "slf_other", ((-300, 0, 200, 900), (0.05, 0.3, 0.9, 1))), ("hu", "single_window", ((-200, 400), (0, 1)))])
def test_intensities_equal_the_authors(golden, hu, name, knots):
    arrays = np.load(golden / "prep_sepnet_intensity.npz")
    before = arrays[hu].copy()
    assert np.allclose(segmental_linear(before, *knots), arrays[name], atol=1e-6)
    assert np.array_equal(before, arrays[hu])  # theirs clips its input


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_crop_and_back(height, width, size):
    volume = np.random.default_rng(0).integers(1, 9, (2, height, width))
    restored = undo_crop(centre_crop(volume, size), (height, width))
    assert (restored[restored != 0] == volume[restored != 0]).all()
    assert (restored != 0).sum() == 2 * min(height, size) * min(width, size)


def test_volumes_are_the_transformed_crop_in_place(raw, prepared):
    ct, case = read_volume(raw / "1" / "data.nii.gz"), prepared / "train" / "1"
    for name in ("multi_thresh_1", "multi_thresh_2", "multi_thresh_3", "single_window"):
        image = read_volume(case / f"{name}.nii.gz")
        assert image.GetPixelID() == sitk.sitkFloat32
        expected = transformed(sitk.GetArrayFromImage(ct), CONTROL_POINTS[name])
        assert np.array_equal(sitk.GetArrayFromImage(image), expected)
        for key, value in geometry(ct).items():
            assert np.allclose(geometry(image)[key], value, atol=1e-4), key
    assert np.array_equal(array(case / "label.nii.gz"), array(raw / "1" / "label.nii.gz"))


def test_a_crop_keeps_every_voxel_where_it_was(ct):
    for size in (16, 48):
        values, grid = cropped(ct, size)
        z, y, x = np.argwhere(values == values[values != 0].max())[0]
        at = np.array(grid["origin_xyz"]) + np.multiply(grid["spacing_xyz"], (x, y, z))
        assert ct[ct.TransformPhysicalPointToIndex(at.tolist())] == values[z, y, x]


def test_a_ct_that_has_the_networks_spacing_stays_as_it_is(ct):
    assert network_grid(ct, Config(resample=True, spacing_zyx=ct.GetSpacing()[::-1])) is ct


def test_resampling_and_back_keeps_organs_in_place(raw):
    label = read_volume(raw / "1" / "label.nii.gz")
    config = Config(resample=True, spacing_zyx=(3.0, 2.0, 2.0))
    resampled = network_grid(label, config, sitk.sitkNearestNeighbor, 0)
    assert resampled.GetSpacing() == (2.0, 2.0, 3.0)
    labels, _ = cropped(resampled, 128)
    restored, reference = onto_lps(labels, geometry(resampled), geometry(label)), sitk.GetArrayFromImage(label)
    for organ in (9, 10, 1, 20):  # the large ones: left and right stay apart
        assert dice(reference == organ, restored == organ) > 0.8


@pytest.mark.parametrize("spacing_zyx, crop_size", [
    ((3.1, 1.9, 2.3), 48), ((2.5, 4.1, 3.9), 64), ((1.1, 1.3, 1.7), 16)])
def test_a_spline_in_the_crop_alone_gives_what_the_whole_ct_gives(spacing_zyx, crop_size):
    ct = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1500, (20, 150, 160)).astype(np.int16))
    ct.SetSpacing((0.97, 1.13, 2.07))
    of_crop, of_all = (network_grid(ct, Config(resample=True, spacing_zyx=spacing_zyx, crop_size=side))
                       for side in (crop_size, 800))
    assert geometry(of_crop) == geometry(of_all)
    (ours, grid), (whole, whole_grid) = (cropped(each, crop_size, -1024) for each in (of_crop, of_all))
    assert abs(ours.astype(int) - whole).max() <= 1  # ITK cuts off what is behind the point
    assert grid == whole_grid


def test_a_flat_cohort_is_split_and_a_split_one_taken_as_it_is(raw, prepared, tmp_path):
    rows = read_table(prepared / "cases.csv", ["labels"])
    assert [row["part"] for row in rows] == ["train"] * 3 + ["valid"]
    assert [row["case"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["labels"] == " ".join(map(str, range(1, 23)))
    for part, patient in (("train", "4"), ("valid", "2")):
        shutil.copytree(raw / patient, tmp_path / "raw" / part / patient)
    prepare(tmp_path / "raw", tmp_path / "out")
    assert [row["case"] for row in read_table(tmp_path / "out" / "cases.csv", [])] == ["4", "2"]
    shutil.copytree(raw / "2", tmp_path / "raw" / "train" / "2")
    with pytest.raises(InputError, match="2 in train and in valid"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_a_cohort_of_rtstructs_gives_the_same_cases(raw, prepared, tmp_path, dicom_case, capsys):
    names = {label: name.title().replace(" ", "") for label, name in enumerate(Config().organs, 1)}
    for patient in "1234":
        ct, labels = (read_volume(raw / patient / f"{name}.nii.gz") for name in ("data", "label"))
        if patient == "2":
            labels = labels * sitk.Cast(labels != 1, sitk.sitkUInt8)
        dicom_case(ct, labels, {**names, 4: "Eye Lens left"}, tmp_path / "raw" / patient)
    assert prepare(tmp_path / "raw", tmp_path / "out") == 0
    assert "2: missing brain stem" in capsys.readouterr().out
    for name in ("multi_thresh_1", "label", "reference"):
        assert np.array_equal(array(tmp_path / "out" / "train" / "1" / f"{name}.nii.gz"),
                              array(prepared / "train" / "1" / f"{name}.nii.gz"))


def test_preparing_twice_writes_once_and_other_settings_are_refused(raw, tmp_path):
    prepare(raw, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    prepare(raw, tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    with pytest.raises(InputError, match="crop_size 48 .now 32"):
        prepare(raw, tmp_path, "--crop-size", "32")


def test_other_control_points_are_refused_in_a_folder_and_stay_with_the_cases(raw, tmp_path):
    points = ["--multi-thresh-2", "-500", "0", "0", "0.5", "1500", "1"]
    prepare(raw, tmp_path / "first")
    with pytest.raises(InputError, match="multi_thresh_2 -500.0 0.0 -100.0 0.2 .* .now -500.0 0.0 0.0 0.5"):
        prepare(raw, tmp_path / "first", *points)
    prepare(raw, tmp_path / "second", *points)
    assert read_json(tmp_path / "second" / "config.json")["multi_thresh_2"] == [-500, 0, 0, 0.5, 1500, 1]
    case = tmp_path / "second" / "train" / "1"
    hu = array(raw / "1" / "data.nii.gz")
    assert np.array_equal(array(case / "multi_thresh_2.nii.gz"), transformed(hu, (-500, 0, 0, 0.5, 1500, 1)))
    for wrong in (["-500", "0", "400"], ["400", "0", "-500", "1"]):
        with pytest.raises(InputError, match="multi-thresh-1 .* must be HU and value by turns"):
            prepare(raw, tmp_path / "third", "--multi-thresh-1", *wrong)


@pytest.mark.parametrize("option", ["--lr=7", "--resume", "--dropout", "--transform", "--device"])
def test_what_preparation_does_not_read_is_refused(raw, tmp_path, option):
    with pytest.raises(InputError, match=f"unknown option {option} .a setting of train.py.. Valid: --help --scheduler"):
        prepare(raw, tmp_path, option)


def test_a_folder_of_before_kept_every_setting_and_still_goes_on(raw, tmp_path):
    keep_config(Config(crop_size=48, lr=7.0), tmp_path / "config.json")
    assert prepare(raw, tmp_path) == 0
    with pytest.raises(InputError, match="crop_size 48 .now 32"):
        prepare(raw, tmp_path, "--crop-size", "32")


def test_killed_and_started_again_gives_the_same_files(tmp_path):
    write_structseg_cohort(tmp_path / "raw", patients=4, size=128, slices=32)
    command = [sys.executable, "-m", "sepnet.preprocess", "--data-dir", str(tmp_path / "raw"), "--prepared-dir"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("train/*/case.json")):
        assert killed.poll() is None
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "cases.csv").exists()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.parametrize("orientation", ["RAS", "SPL"])
def test_stored_orientation_does_not_matter(raw, prepared, tmp_path, orientation):
    for patient in ("1", "2"):
        for name in ("data.nii.gz", "label.nii.gz"):
            image = sitk.DICOMOrient(sitk.ReadImage(str(raw / patient / name)), orientation)
            write_volume(image, tmp_path / "Löwe 1" / patient / name)
    prepare(tmp_path / "Löwe 1", tmp_path / "out put")
    for name in ("multi_thresh_1.nii.gz", "label.nii.gz"):
        case = Path("train", "1", name)
        assert np.array_equal(array(tmp_path / "out put" / case), array(prepared / case))


def test_a_mirrored_case_has_its_sides_swapped_and_only_then(raw, tmp_path):
    """The voxels of a case mirrored left to right: the geometry says where left is, so labels move along."""
    for patient in ("1", "2"):
        for name in ("data.nii.gz", "label.nii.gz"):
            image = sitk.ReadImage(str(raw / patient / name))
            write_volume(sitk.Flip(image, (True, False, False)), tmp_path / "stored" / patient / name)  # header follows
            mirrored = sitk.GetImageFromArray(sitk.GetArrayFromImage(image)[:, :, ::-1])  # header does not
            mirrored.CopyInformation(image)
            write_volume(mirrored, tmp_path / "mirrored" / patient / name)
    for kind in ("stored", "mirrored"):
        prepare(tmp_path / kind, tmp_path / f"out {kind}")
    labels = {kind: array(tmp_path / f"out {kind}" / "train" / "1" / "label.nii.gz") for kind in ("stored", "mirrored")}
    original = array(raw / "1" / "label.nii.gz")
    assert np.array_equal(labels["stored"], original)
    assert np.array_equal(labels["mirrored"], original[:, :, ::-1])


def test_bad_cases_are_skipped_and_named(raw, tmp_path, capsys):
    cohort = tmp_path / "raw"
    shutil.copytree(raw, cohort)
    image = sitk.ReadImage(str(raw / "1" / "data.nii.gz"))
    label = sitk.ReadImage(str(raw / "1" / "label.nii.gz"))

    def case(name, ct=image, labels=label):
        (cohort / name).mkdir()
        for file, content in (("data.nii.gz", ct), ("label.nii.gz", labels)):
            if content is not None:
                sitk.WriteImage(content, str(cohort / name / file))

    shifted = sitk.Image(label)
    shifted.SetOrigin((0, 0, 0))
    (cohort / "0 empty").mkdir()
    case("0 no label", labels=None)
    case("0 air", ct=image * 0 - 1000)
    case("0 nan", ct=None)
    nan = image_from(np.full(label.GetSize()[::-1], np.nan, np.float32), geometry(image))
    sitk.WriteImage(nan, str(cohort / "0 nan" / "data.nrrd"))  # ITK reads NaN in NIfTI as 0
    case("0 flat", ct=image[:, :, 0])
    case("0 labels", labels=label + 1)
    case("0 size", labels=label[1:])
    case("0 shifted", labels=shifted)
    case("0 cut")
    (cohort / "0 cut" / "data.nii.gz").write_bytes((raw / "1" / "data.nii.gz").read_bytes()[:9000])
    case("0 text")
    (cohort / "0 text" / "data.nii.gz").write_text("hello")
    case("0 upper")
    (cohort / "0 upper" / "label.nii.gz").rename(cohort / "0 upper" / "LABEL.nii.gz")
    assert prepare(cohort, tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    reasons = dict(line.removeprefix("skipped train ").split(": ", 1) for line in lines)
    for name, word in (("empty", "0 files named data"), ("no label", "0 files named label"), ("air", "every voxel is"),
                       ("nan", "not numbers"), ("flat", "3-D"), ("labels", "labels 23 are unknown"), ("size", "size"),
                       ("shifted", "origin"), ("cut", "cut short"), ("text", "damaged")):
        assert word in reasons.pop(f"0 {name}"), name
    assert not reasons
    assert [row["case"] for row in read_table(tmp_path / "out" / "cases.csv", [])] == ["0 upper", "1", "2", "3", "4"]


def test_cohorts_without_use_are_refused(raw, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "absent", tmp_path / "out")
    shutil.copytree(raw / "1", tmp_path / "raw" / "1")
    with pytest.raises(InputError, match="patient folders: 1; train and valid need one each"):
        prepare(tmp_path / "raw", tmp_path / "out")
    shutil.copytree(raw / "2", tmp_path / "raw" / "2")
    for patient in ("1", "2"):
        path = tmp_path / "raw" / patient / "label.nii.gz"
        write_volume(sitk.ReadImage(str(path)) * 0, path)
    with pytest.raises(InputError, match="no organ in any label map"):
        prepare(tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "2" / "label.nii.gz").unlink()
    with pytest.raises(InputError, match="for valid .*: no case could be used.*valid 2: "):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_the_script_runs_inside_its_folder(tmp_path):
    done = subprocess.run([sys.executable, "preprocess.py", "--data_dir", str(tmp_path), "--nonsense"],
                          cwd=Path(preprocess.__file__).parent, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("preprocess.py: error: unknown option --nonsense")


def test_case_json_leads_back_to_the_scan(prepared):
    case = read_json(prepared / "valid" / "4" / "case.json")
    assert {"patient", "sources", "scan", "lps", "seen", "labels"} == case.keys()
