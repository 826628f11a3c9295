"""Cases to slices: lossless, safe to stop, bad patients named."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_table
from shared_data.phantoms import write_neck_cohort
from shared_data.volume import write_volume
from snet_neck_ln.process_data import data_parser, data_process_lymph_node
from snet_neck_ln.slices import STEPS, to_8bit, window


def prepare(raw, prepared, *options):
    return data_process_lymph_node.main(
        ["--workers", "0", "--data-dir", str(raw), "--prepared-dir", str(prepared), *options])


def tree(folder):
    """{relative path: bytes}, without the settings (they name folders)."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in ("config.json", ".lock")}


def test_slices_hold_the_window_and_the_mask(raw, prepared):
    hu = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "P2" / "IM0001.nrrd")))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "P2" / "Segmentation.nrrd")))
    rows = [row for row in read_table(prepared / "slices.csv", []) if row["patient"] == "P2"]
    assert [row["has_node"] for row in rows] == [str(int(plane.any())) for plane in mask]
    for k, row in enumerate(rows):
        with np.load(prepared / row["path"], allow_pickle=False) as arrays:
            assert np.abs(arrays["image"] / STEPS - window(hu[k])).max() < 1e-5
            assert np.array_equal(arrays["mask"], mask[k]) and arrays["image"].dtype == np.uint16
        picture = cv2.imread(str(prepared / "P2" / "images" / f"{k}.jpg"), cv2.IMREAD_GRAYSCALE)
        assert np.abs(picture.astype(int) - to_8bit(window(hu[k]))).mean() < 5


def test_preparing_twice_writes_once(raw, tmp_path):
    prepare(raw, tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert prepare(raw, tmp_path) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    with pytest.raises(InputError, match="window_width_hu 400.0 .now 350.0."):
        prepare(raw, tmp_path, "--window-width-hu", "350")


def test_a_changed_patient_is_prepared_again(raw, tmp_path):
    shutil.copytree(raw / "P1", tmp_path / "raw" / "P1")
    prepare(tmp_path / "raw", tmp_path / "out")
    before = tree(tmp_path / "out")
    for name in ("IM0001.nrrd", "Segmentation.nrrd"):
        shutil.copy(raw / "P2" / name, tmp_path / "raw" / "P1")
    prepare(tmp_path / "raw", tmp_path / "out")
    assert tree(tmp_path / "out") != before


def test_killed_and_started_again_gives_the_same_files(tmp_path):
    write_neck_cohort(tmp_path / "raw", patients=5, size=128, slices=40)
    command = [sys.executable, "-m", "snet_neck_ln.process_data.data_process_lymph_node", "--workers", "2",
               "--data-dir", str(tmp_path / "raw"), "--prepared-dir"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], start_new_session=True, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "killed").glob("*/case.json")):
        assert killed.poll() is None
        time.sleep(0.002)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "slices.csv").exists()
    for out in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / out)], check=True, stderr=subprocess.DEVNULL)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".writing-*"))


def test_workers_do_not_change_the_files(raw, prepared, tmp_path):
    prepare(raw, tmp_path, "--workers", "2")
    assert {name: content for name, content in tree(prepared).items() if "folds" not in name} == tree(tmp_path)


@pytest.mark.parametrize("orientation", ["RAS", "SPL", "AIL"])
def test_stored_orientation_does_not_matter(raw, prepared, tmp_path, orientation):
    for name in ("IM0001.nii.gz", "Segmentation.nii.gz"):
        image = sitk.ReadImage(str(raw / "P1" / name.replace(".nii.gz", ".nrrd")))
        write_volume(sitk.DICOMOrient(image, orientation), tmp_path / "raw" / "P1" / name)
    prepare(tmp_path / "raw", tmp_path / "out")
    for k in range(5):
        ours, first = (np.load(folder / "P1" / "files" / f"{k}.npz") for folder in (tmp_path / "out", prepared))
        assert np.array_equal(ours["image"], first["image"]) and np.array_equal(ours["mask"], first["mask"])


def test_other_names_formats_and_a_dicom_ct(raw, tmp_path):
    image = sitk.ReadImage(str(raw / "P1" / "IM0001.nrrd"))
    mask = sitk.ReadImage(str(raw / "P1" / "Segmentation.nrrd"))
    write_dicom_series(image, tmp_path / "raw" / "Übel nr 1" / "ct dicom")
    write_volume(mask * 7, tmp_path / "raw" / "Übel nr 1" / "IM0001_LABELS.nii.gz")
    assert prepare(tmp_path / "raw", tmp_path / "out", "--image-pattern", "ct*", "--mask-pattern", "*labels*",
                   "--merge-labels") == 0
    assert len(read_table(tmp_path / "out" / "slices.csv", [])) == 5


def test_a_dicom_ct_with_its_rtstruct_gives_the_same_slices(raw, prepared, tmp_path, dicom_case, capsys):
    for name in ("P1", "P2", "P3"):
        ct, nodes = (sitk.ReadImage(str(raw / name / f"{file}.nrrd")) for file in ("IM0001", "Segmentation"))
        dicom_case(ct, nodes, {1: "LN level II" if name != "P3" else "Knoten"}, tmp_path / "raw" / name)
    write_dicom_series(ct, tmp_path / "raw" / "P1" / "another series")
    assert prepare(tmp_path / "raw", tmp_path / "out") == 1
    assert "skipped P3: " in (said := capsys.readouterr().err) and "among its ROIs with contours: Knoten" in said
    (tmp_path / "rois.json").write_text('{"node": ["LN*", "knoten"]}')
    assert prepare(tmp_path / "raw", tmp_path / "all", "--rois", str(tmp_path / "rois.json")) == 0
    assert len(list((tmp_path / "all").glob("P*"))) == 3
    for k in range(5):
        ours, first = (np.load(folder / "P1" / "files" / f"{k}.npz") for folder in (tmp_path / "all", prepared))
        assert np.array_equal(ours["image"], first["image"]) and np.array_equal(ours["mask"], first["mask"])
    shutil.copy(tmp_path / "raw" / "P2" / "structures.dcm", tmp_path / "raw" / "P2" / "again")
    assert prepare(tmp_path / "raw", tmp_path / "out") == 1
    assert "2 RTSTRUCTs: " in capsys.readouterr().err


def test_bad_patients_are_skipped_and_named(raw, tmp_path, capsys):
    cohort = tmp_path / "raw"
    shutil.copytree(raw, cohort)
    image = sitk.ReadImage(str(raw / "P1" / "IM0001.nrrd"))
    mask = sitk.ReadImage(str(raw / "P1" / "Segmentation.nrrd"))

    def patient(name, ct=image, segmentation=mask):
        for file, content in (("IM0001.nrrd", ct), ("Segmentation.nrrd", segmentation)):
            if content is not None:
                (cohort / name).mkdir(exist_ok=True)
                sitk.WriteImage(content, str(cohort / name / file))

    shifted = sitk.Image(mask)
    shifted.SetOrigin((0, 0, 0))
    (cohort / "empty").mkdir()
    patient("no ct", ct=None)
    patient("no mask", segmentation=None)
    patient("two cts")
    sitk.WriteImage(image, str(cohort / "two cts" / "IM0002.nrrd"))
    patient("air", ct=image * 0 - 1000)
    patient("flat", ct=image[:, :, 0])
    patient("labels", segmentation=mask * 3)
    patient("size", segmentation=mask[1:])
    patient("shifted", segmentation=shifted)
    patient("cut")
    content = (cohort / "cut" / "IM0001.nrrd").read_bytes()
    (cohort / "cut" / "IM0001.nrrd").write_bytes(content[:len(content) // 2])
    assert prepare(cohort, tmp_path / "out") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped")]
    reasons = dict(line.removeprefix("skipped ").split(": ", 1) for line in lines)
    for name, word in (("empty", "0 candidates for the CT"), ("no ct", "0 candidates for the CT"),
                       ("no mask", "0 candidates for the mask"), ("two cts", "IM0001.nrrd, IM0002.nrrd"),
                       ("air", "every voxel is -1000"), ("flat", "3-D"), ("labels", "labels 3 are unknown"),
                       ("size", "size"), ("shifted", "origin"), ("cut", "not a readable volume")):
        assert word in reasons[name], name
    assert {row["patient"] for row in read_table(tmp_path / "out" / "slices.csv", [])} == {f"P{i}" for i in range(1, 6)}


def test_odd_patients_do_not_stop_the_others(raw, tmp_path, capsys):
    cohort = tmp_path / "raw"
    for name in ("ok", "folds", "line\nbreak", "byte\udcff", "n" * 230, "link"):
        shutil.copytree(raw / "P1", cohort / name)
    (cohort / "link" / "IM0001.nrrd").unlink()
    (cohort / "link" / "IM0001.nrrd").symlink_to(tmp_path / "nowhere.nrrd")
    assert prepare(cohort, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("cannot be prepared. Rename it.") == 4 and "skipped link: " in error
    assert {row["patient"] for row in read_table(tmp_path / "out" / "slices.csv", [])} == {"ok"}


def test_the_raw_cohort_is_never_the_prepared_folder(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    before = tree(tmp_path / "raw")
    for prepared in (tmp_path / "raw", tmp_path / "raw" / "prepared", tmp_path):
        with pytest.raises(InputError, match="must lie apart"):
            prepare(tmp_path / "raw", prepared)
    assert tree(tmp_path / "raw") == before


def test_two_runs_over_one_folder_are_refused(raw, tmp_path):
    with only_run_in(tmp_path / "out"), pytest.raises(InputError, match="another run is at work here"):
        prepare(raw, tmp_path / "out")


def test_folds_of_another_cohort_do_not_survive(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    prepare(tmp_path / "raw", tmp_path / "out")
    data_parser.main(["--prepared-dir", str(tmp_path / "out")])
    prepare(tmp_path / "raw", tmp_path / "out")
    assert (tmp_path / "out" / "folds").exists()
    shutil.rmtree(tmp_path / "raw" / "P2")
    prepare(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out" / "folds").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"sources": [], "has_node": 5}'])
def test_a_damaged_case_is_prepared_again(raw, prepared, tmp_path, content):
    shutil.copytree(prepared, tmp_path / "out")
    (tmp_path / "out" / "P3" / "case.json").write_text(content)
    with pytest.raises(InputError):
        data_process_lymph_node.read_case(tmp_path / "out" / "P3")
    assert prepare(raw, tmp_path / "out") == 0
    assert tree(tmp_path / "out") == tree(prepared)


def test_cohorts_without_use_are_refused(raw, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        prepare(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match="no patient folders"):
        prepare(tmp_path / "raw", tmp_path / "out")
    shutil.copytree(raw / "P1", tmp_path / "raw" / "P1")
    mask = tmp_path / "raw" / "P1" / "Segmentation.nrrd"
    write_volume(sitk.ReadImage(str(mask)) * 0, mask)
    with pytest.raises(InputError, match="not one mask holds a node"):
        prepare(tmp_path / "raw", tmp_path / "out")
    mask.unlink()
    with pytest.raises(InputError, match="no case could be used.*P1"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_the_script_runs_inside_its_folder(raw, tmp_path):
    folder = Path(data_process_lymph_node.__file__).parents[1]
    done = subprocess.run([sys.executable, "process_data/data_process_lymph_node.py", "--data_dir", str(raw),
                           "--prepared_dir", str(tmp_path), "--nonsense"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("data_process_lymph_node.py: error: unknown option --nonsense")
    assert json.dumps(done.stdout) == '""'
