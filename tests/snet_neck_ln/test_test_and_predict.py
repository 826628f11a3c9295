"""Scores and masks of held-out patients, on the grid of their scans; bad input is one line."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fill import fill_entries

from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.metrics import dice
from shared_data.volume import geometry, write_volume
from snet_neck_ln import predict, test
from tests.browser import check_viewer


@pytest.fixture(scope="module")
def scored(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    assert test.main(["--run-dir", str(run_dir), "--output-dir", str(out), "--checkpoint", str(run_dir / "last.pt"),
                      "--threshold", "0.3", "--device", "cpu"]) == 0
    return out


def run_predict(run_dir, scan, output, *options):
    predict.main(["--input", str(scan), "--output", str(output), "--checkpoint", str(run_dir / "last.pt"),
                  "--device", "cpu", *options])
    return sitk.ReadImage(str(output))


def test_scores_come_from_the_written_masks(scored, raw):
    rows = read_table(scored / "cases.csv", [])
    assert [row["case"] for row in rows] == ["P5"]
    scan = sitk.ReadImage(str(raw / "P5" / "IM0001.nrrd"))
    prediction = sitk.ReadImage(str(scored / "predictions" / "P5.nii.gz"))
    assert np.allclose(prediction.GetOrigin(), scan.GetOrigin()) and prediction.GetSize() == scan.GetSize()
    reference = sitk.GetArrayFromImage(sitk.ReadImage(str(raw / "P5" / "Segmentation.nrrd"))) > 0
    assert float(rows[0]["dice"]) == pytest.approx(dice(reference, sitk.GetArrayFromImage(prediction) > 0))


def test_a_report_and_its_pictures_are_written(scored, raw):
    summary = json.loads((scored / "summary.json").read_text())
    assert summary["cases"] == 1 and {"dice", "hd95_mm", "slice_dice_as_published"} <= summary["scores"].keys()
    assert [row["short axis"] for row in summary["detection"]] == ["all", "< 5 mm", "5-10 mm", ">= 10 mm"]
    assert {path.name for path in (scored / "overlays").iterdir()} == {"best.png", "contact_sheet.png"}
    page = (scored / "report.html").read_text(encoding="utf-8")
    assert "P5" in page and page.count("data:image/png") >= 3
    check_viewer(scored, "P5", raw / "P5" / "IM0001.nrrd", (-150, 230),
                 prediction=scored / "predictions" / "P5.nii.gz", reference=raw / "P5" / "Segmentation.nrrd")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_patient_is_named_and_the_others_scored(run_dir, prepared, tmp_path, capfd, workers):
    shutil.copytree(prepared, tmp_path / "prepared")
    fold = tmp_path / "prepared" / "folds" / "fold1"
    for suffix in ("with_node", "without_node"):
        shutil.copy(fold / f"train_{suffix}.txt", fold / f"test_{suffix}.txt")
    (tmp_path / "prepared" / "P3" / "files" / "0.npz").write_bytes(b"PK no")
    state = torch.load(run_dir / "best.pt", weights_only=True)
    torch.save({**state, "trained_on": []}, tmp_path / "best.pt")
    options = ["--run-dir", str(tmp_path), "--prepared-dir", str(tmp_path / "prepared"), "--device", "cpu"]
    assert test.main([*options, "--output-dir", str(tmp_path / "out"), "--workers", workers]) == 1
    assert "skipped P3: " in capfd.readouterr().err
    assert [row["case"] for row in read_table(tmp_path / "out" / "cases.csv", [])] == ["P2", "P4"]
    for patient in ("P2", "P4"):
        (tmp_path / "prepared" / patient / "case.json").write_text("{}")
    with pytest.raises(InputError, match="no case could be used. P2: .*case.json: damaged"):
        test.main([*options, "--output-dir", str(tmp_path / "none")])


def test_predict_equals_test(scored, run_dir, raw, tmp_path):
    mask = run_predict(run_dir, raw / "P5" / "IM0001.nrrd", tmp_path / "mask.nii.gz", "--threshold", "0.3")
    expected = sitk.ReadImage(str(scored / "predictions" / "P5.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(expected))


def test_one_ct_in_four_formats_gives_one_mask_on_its_own_grid(run_dir, raw, tmp_path):
    ct = sitk.DICOMOrient(sitk.ReadImage(str(raw / "P4" / "IM0001.nrrd")), "RAS")
    write_dicom_series(ct, tmp_path / "dicom")
    scans = [tmp_path / "dicom"]
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_volume(ct, tmp_path / f"ct{suffix}")
        scans.append(tmp_path / f"ct{suffix}")
    masks = [run_predict(run_dir, scan, tmp_path / f"mask {i}{suffix}", "--threshold", "0.3")
             for i, (scan, suffix) in enumerate(zip(scans, (".nii.gz", ".nrrd", ".mha", ".mhd")))]
    assert sitk.GetArrayViewFromImage(masks[0]).any()
    for mask in masks:
        assert np.array_equal(sitk.GetArrayViewFromImage(mask), sitk.GetArrayViewFromImage(masks[0]))
        for key, value in geometry(ct).items():
            assert np.allclose(geometry(mask)[key], value, atol=1e-4), key
    summary = json.loads((tmp_path / "mask 1.json").read_text())
    voxel_ml = np.prod(ct.GetSpacing()) / 1000
    assert summary["volume_ml"] == pytest.approx(sitk.GetArrayViewFromImage(masks[1]).sum() * voxel_ml)
    assert (tmp_path / "mask 1_overlay.png").stat().st_size > 1000


def test_dicom_outputs_hold_the_same_mask(run_dir, raw, check_dicom_outputs):
    check_dicom_outputs(sitk.ReadImage(str(raw / "P4" / "IM0001.nrrd")), {1: "lymph node"},
                        lambda *given: run_predict(run_dir, *given, "--threshold", "0.3"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cohort_is_segmented_as_each_ct_alone(run_dir, raw, check_cohort, workers):
    def run(source, output):
        argv = ["--input", str(source), "--output", str(output), "--checkpoint", str(run_dir / "last.pt"), "--device",
                "cpu", "--threshold", "0.3", "--workers", str(workers)]
        if workers and source.is_dir():  # as people call it
            return subprocess.run([sys.executable, "-m", "snet_neck_ln.predict", *argv]).returncode
        return predict.main(argv)

    rows = check_cohort(run, {name: raw / name / "IM0001.nrrd" for name in ("P4", "P5")})
    assert float(rows["P4"]["volume_ml"]) > 0 and "--size 40 takes all" in rows["P4"]["warnings"]


def test_a_checkpoint_of_the_authors_predicts(golden, raw, tmp_path):
    entries = json.loads((golden / "snet2d.json").read_text())["state"]
    values = fill_entries([(key, shape) for key, shape, *_ in entries], 20240)
    torch.save({"model": {f"module.{key}": torch.from_numpy(value) for key, value in values.items()}},
               tmp_path / "authors.pth")
    predict.main(["--input", str(raw / "P1" / "IM0001.nrrd"), "--output", str(tmp_path / "mask.nrrd"),
                  "--checkpoint", str(tmp_path / "authors.pth"), "--size", "40"])
    assert (tmp_path / "mask.nrrd").exists()


def test_small_and_odd_slices_are_padded_and_large_ones_noted(run_dir, raw, tmp_path, capsys):
    ct = sitk.ReadImage(str(raw / "P4" / "IM0001.nrrd"))
    small = run_predict(run_dir, write(ct[3:26, 5:36], tmp_path / "small.nrrd"), tmp_path / "m.nrrd")
    assert small.GetSize() == (23, 31, 5) and "note:" not in capsys.readouterr().out
    run_predict(run_dir, raw / "P4" / "IM0001.nrrd", tmp_path / "large.nrrd")
    assert "--size 40 takes all" in capsys.readouterr().out


def test_predict_never_writes_over_its_input(run_dir, raw, tmp_path):
    scan = tmp_path / "ct.nrrd"
    shutil.copy(raw / "P1" / "IM0001.nrrd", scan)
    (tmp_path / "scan.zraw").write_bytes(b"x")
    for output, message in ((scan, "overwrite the input"), (tmp_path, "unknown format"),
                            (tmp_path / "scan.mhd", "overwrite scan.zraw")):
        with pytest.raises(InputError, match=message):
            run_predict(run_dir, scan, output)
    assert scan.read_bytes() == (raw / "P1" / "IM0001.nrrd").read_bytes()


def write(image, path):
    write_volume(image, path)
    return path


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bad_checkpoints_are_refused(run_dir, raw, tmp_path, capsys):
    state = torch.load(run_dir / "last.pt", weights_only=True)
    wider = {**state["model"], "stem.0.weight": torch.zeros(32, 3, 3, 3)}
    missing = {key: value for key, value in state["model"].items() if key != "head.bias"}
    bad = {"other": {**state, "project": "sepnet"}, "list": [1], "wider": {**state, "model": wider},
           "missing": {**state, "model": missing}, "bare": {"project": "snet_neck_ln"},
           "foreign": {"layer.weight": torch.zeros(1)}, "evil": Evil(), "settings": {**state, "config": {"speed": 3}},
           "nan": {**state, "model": {**state["model"], "head.bias": torch.tensor([torch.nan])}}}
    for name, content in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "cut.pt").write_bytes((run_dir / "last.pt").read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").touch()
    for name, word in (("other", "sepnet, not snet_neck_ln"), ("list", "holds a list"), ("wider", "stem.0.weight"),
                       ("missing", "head.bias"), ("bare", "no model"), ("nan", "head.bias holds values that are"),
                       ("foreign", "not a checkpoint of S-Net"), ("evil", "plain tensors"),
                       ("settings", "speed"), ("cut", "damaged"), ("text", "damaged"), ("empty", "damaged"),
                       ("absent", "no such checkpoint")):
        with pytest.raises(InputError, match=word):
            predict.main(["--input", str(raw / "P1" / "IM0001.nrrd"), "--output", str(tmp_path / "m.nrrd"),
                          "--checkpoint", str(tmp_path / f"{name}.pt")])
    assert "executed" not in capsys.readouterr().out and not (tmp_path / "m.nrrd").exists()


def test_a_bad_scan_is_one_line_and_exit_code_2(run_dir, raw, tmp_path):
    scan = tmp_path / "Löcher und Lücken.nrrd"
    shutil.copy(raw / "P1" / "IM0001.nrrd", scan)
    scan.write_bytes(scan.read_bytes()[:3000])
    command = [sys.executable, "-m", "snet_neck_ln.predict", "--input", str(scan), "--checkpoint",
               str(run_dir / "last.pt"), "--output"]
    done = subprocess.run([*command, str(tmp_path / "m.nrrd")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"predict.py: error: {scan}: ")
    assert len(done.stderr.splitlines()) == 1


def test_test_needs_a_run(tmp_path):
    with pytest.raises(InputError, match="best.pt: no such checkpoint"):
        test.main(["--run-dir", str(tmp_path)])
