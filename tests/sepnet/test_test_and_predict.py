"""The chain from checkpoints to scores and label maps; bad input is one line."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from fill import fill_entries

from sepnet import ensemble_seg, error_rate, predict, segmentation, test, uncertainty
from sepnet.checkpoint import SHIPPED, load_network
from sepnet.config import CONTROL_POINTS, Config
from sepnet.test import score_organs, summarise_organ, weighted_scores, without_undrawn
from sepnet.volumes import transformed
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.metrics import dice
from shared_data.openkbp import ORGANS
from shared_data.volume import geometry, write_volume
from tests.browser import check_viewer

FAST = ["--window-step", "8", "--window-batch", "2", "--device", "cpu"]


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def run_predict(scan, output, *checkpoints, options=()):
    predict.main(["--input", str(scan), "--output", str(output), *FAST, *options,
                  "--checkpoint", *map(str, checkpoints)])
    return sitk.ReadImage(str(output))


@pytest.fixture(scope="module")
def scored(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    assert test.main(["--run-dir", str(runs), "--output-dir", str(out), *FAST]) == 0
    return out


def test_scores_come_from_the_written_label_maps(scored, raw):
    rows = read_table(scored / "organs.csv", [])
    assert [row["label"] for row in rows] == [str(label) for label in range(1, 23)] and rows[0]["organ"] == "brain stem"
    prediction = sitk.ReadImage(str(scored / "predictions" / "4.nii.gz"))
    reference = sitk.ReadImage(str(raw / "4" / "label.nii.gz"))
    assert np.allclose(prediction.GetOrigin(), reference.GetOrigin())
    for row in rows:
        organ = [sitk.GetArrayFromImage(image) == int(row["label"]) for image in (reference, prediction)]
        assert float(row["dice"]) == pytest.approx(dice(*organ))
    summary = json.loads((scored / "summary.json").read_text())
    assert [path.split("/")[-2] for path in summary["checkpoints"]] == ["one", "two"]
    assert {row["votes"] for row in summary["error_rates"]} <= {"2", "1+1"}
    page = (scored / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 4 and "weighted_hd95_mm" in page
    facts, layers = check_viewer(scored, "4", raw / "4" / "data.nii.gz", (-480, 1400),
                                 prediction=scored / "predictions" / "4.nii.gz", reference=raw / "4" / "label.nii.gz")
    assert len(facts["labels"]) == 22 and "disagreement" in layers


def test_the_scripts_of_the_chain_give_what_test_gives(runs, prepared, scored, tmp_path):
    common = ["--prepared-dir", str(prepared), "--results-dir", str(tmp_path)]
    segmentation.main([*common, "--run-dir", str(runs), *FAST])
    for script in (ensemble_seg, uncertainty, error_rate):
        script.main(common)
    fused, entropy = (array(tmp_path / "ensemble" / "4" / f"{name}.nii.gz") for name in ("segmentation", "uncertainty"))
    expected = array(scored / "predictions" / "4.nii.gz")
    scores = sum(np.load(tmp_path / member / "4" / "probability.npz")["probability"].astype(int)
                 for member in ("one", "two"))
    margin = np.take_along_axis(scores, fused[None], 0) - np.take_along_axis(scores, expected[None], 0)
    assert margin.min() >= 0 and margin.max() <= 2  # truncating to 1/100 takes less than 1 from each of two members
    one, two = (array(tmp_path / member / "4" / "segmentation.nii.gz") for member in ("one", "two"))
    assert np.allclose(entropy, np.where(one == two, 0, 0.693127), atol=2e-5)
    with np.load(tmp_path / "one" / "4" / "probability.npz", allow_pickle=False) as arrays:
        assert arrays["probability"].dtype == np.uint16 and arrays["probability"].shape == (23, *fused.shape)
    assert (tmp_path / "error_rate.csv").exists() and (tmp_path / "error_rate.png").stat().st_size > 1000
    (tmp_path / "one" / "4" / "probability.npz").write_bytes(b"PK no")
    with pytest.raises(InputError, match="probability.npz: damaged"):
        ensemble_seg.main(common)
    with pytest.raises(InputError, match="Run segmentation.py first"):
        uncertainty.main(["--prepared-dir", str(prepared), "--results-dir", str(tmp_path / "none")])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_case_is_named_and_the_others_scored(runs, prepared, tmp_path, capfd, workers):
    shutil.copytree(prepared, tmp_path / "prepared")
    (tmp_path / "prepared" / "train" / "2" / "case.json").write_text("{}")
    options = ["--run-dir", str(runs / "one"), "--prepared-dir", str(tmp_path / "prepared"), *FAST]
    assert test.main([*options, "--split", "train", "--output-dir", str(tmp_path / "out"), "--workers", workers]) == 1
    assert "skipped 2: " in capfd.readouterr().err
    assert [row["case"] for row in read_table(tmp_path / "out" / "cases.csv", [])] == ["1", "3"]
    (tmp_path / "prepared" / "valid" / "4" / "case.json").write_text("{}")
    with pytest.raises(InputError, match="no case could be used. 4: .*case.json: damaged"):
        test.main([*options, "--output-dir", str(tmp_path / "none")])


def test_absent_organs_are_absent_and_enter_no_mean():
    reference, prediction = np.zeros((2, 4, 8, 8), np.uint8)
    reference[1, 2:6, 2:6] = prediction[1, 2:6, 3:7] = 1
    reference[2, 1, 1] = 2
    prediction[3, 1, 1] = 3
    rows = score_organs("P", reference, prediction, (1, 1, 3), Config(n_classes=5).classes)
    assert [row["found"] for row in rows] == ["both", "missed", "false", "absent"]
    assert [row["dice"] for row in rows[:3]] == [0.75, 0, 0] and np.isnan(rows[3]["dice"])
    summary = [summarise_organ([row]) for row in without_undrawn(rows, Config())]
    assert [row["found"] for row in summary] == ["1 of 1", "0 of 1", "absent", "absent"]
    assert [row["false"] for row in summary] == [0, 0, 1, 0]
    assert [row["n"] for row in summary] == [1, 1, 0, 0] and [row["n_distance"] for row in summary] == [1, 0, 0, 0]
    weighted = weighted_scores(summary, Config().weights)  # labels 1, 2 weigh 100 each
    assert weighted["weighted_dice"] == pytest.approx(0.375)
    assert weighted["weighted_hd95_mm"] == pytest.approx(rows[0]["hd95_mm"])


def test_predict_equals_test_and_maps_lie_on_the_cts_own_grid(scored, runs, raw, tmp_path):
    checkpoints = [runs / name / "best.pt" for name in ("one", "two")]
    labels = run_predict(raw / "4" / "data.nii.gz", tmp_path / "labels.nii.gz", *checkpoints)
    assert np.array_equal(sitk.GetArrayFromImage(labels), array(scored / "predictions" / "4.nii.gz"))
    assert np.allclose(array(tmp_path / "labels_uncertainty.nii.gz"),
                       array(scored / "predictions" / "4_uncertainty.nii.gz"))
    summary = json.loads((tmp_path / "labels.json").read_text())
    voxel_ml = np.prod(labels.GetSpacing()) / 1000
    for row in summary["organs"]:
        assert row["volume_ml"] == pytest.approx((sitk.GetArrayFromImage(labels) == row["label"]).sum() * voxel_ml)
    assert (tmp_path / "labels_overlay.png").stat().st_size > 1000


def test_a_network_sees_the_intensities_it_was_trained_with(runs, raw, prepared, tmp_path, capsys, monkeypatch):
    state = torch.load(runs / "one" / "best.pt", weights_only=True)
    assert tuple(state["config"]["multi_thresh_1"]) == CONTROL_POINTS["multi_thresh_1"]
    state["config"]["multi_thresh_1"] = points = (-500.0, 0.0, 0.0, 0.5, 1500.0, 1.0)
    (tmp_path / "other").mkdir()
    torch.save(state, tmp_path / "other" / "best.pt")
    segmented = []

    def segment(networks, volumes, *rest, **more):
        segmented.extend(volumes)
        return original(networks, volumes, *rest, **more)

    original = predict.segment_slices
    monkeypatch.setattr(predict, "segment_slices", segment)
    run_predict(raw / "4" / "data.nii.gz", tmp_path / "labels.nii.gz", tmp_path / "other" / "best.pt",
                runs / "one" / "best.pt")
    hu = array(raw / "4" / "data.nii.gz")
    for volume, expected in zip(segmented, (points, CONTROL_POINTS["multi_thresh_1"]), strict=True):
        assert np.array_equal(volume, transformed(hu, expected))
    del state["config"]["multi_thresh_1"]  # a checkpoint of before the control points were recorded
    torch.save(state, tmp_path / "other" / "best.pt")
    assert load_network(tmp_path / "other" / "best.pt")[1].control_points() == CONTROL_POINTS["multi_thresh_1"]
    state["config"]["multi_thresh_1"] = points
    torch.save(state, tmp_path / "other" / "best.pt")
    test.main(["--run-dir", str(tmp_path / "other"), "--prepared-dir", str(prepared), *FAST])
    assert "prepared with multi_thresh_1 -500.0 0.0 -100.0 0.1 " in capsys.readouterr().out


def test_one_ct_in_three_formats_and_another_orientation_gives_one_map(runs, raw, tmp_path):
    first = run_predict(raw / "1" / "data.nii.gz", tmp_path / "first.nii.gz", runs / "one" / "best.pt")
    ct = sitk.DICOMOrient(sitk.ReadImage(str(raw / "1" / "data.nii.gz")), "RAS")
    write_dicom_series(ct, tmp_path / "dicom")
    write_volume(ct, tmp_path / "Schädel 1.nrrd")
    for scan, output in ((tmp_path / "dicom", "a b.mha"), (tmp_path / "Schädel 1.nrrd", "ä.mhd")):
        labels = run_predict(scan, tmp_path / output, runs / "one" / "best.pt")
        for key, value in geometry(ct).items():
            assert np.allclose(geometry(labels)[key], value, atol=1e-4), key
        assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")), sitk.GetArrayFromImage(first))


def test_dicom_outputs_hold_the_same_labels(runs, raw, check_dicom_outputs):
    def run(scan, output, *options):
        return run_predict(scan, output, runs / "one" / "best.pt", options=options)
    check_dicom_outputs(sitk.ReadImage(str(raw / "1" / "data.nii.gz")), dict(enumerate(Config().organs, 1)), run)


def test_short_ct_and_large_slices(runs, raw, tmp_path, capsys):
    ct = sitk.ReadImage(str(raw / "1" / "data.nii.gz"))
    for name, part in (("nine", ct[:, :, :9]), ("odd", ct[3:40, 5:44])):
        write_volume(part, tmp_path / f"{name}.nii.gz")
        labels = run_predict(tmp_path / f"{name}.nii.gz", tmp_path / "out.nii.gz", runs / "one" / "best.pt")
        assert labels.GetSize() == part.GetSize() and "note:" not in capsys.readouterr().out
    run_predict(raw / "1" / "data.nii.gz", tmp_path / "small.nii.gz", runs / "one" / "best.pt",
                options=["--crop-size", "32"])
    assert "--crop-size 48 takes all" in capsys.readouterr().out
    with pytest.raises(InputError, match="--crop-size 0 must be divisible by 8"):
        run_predict(raw / "1" / "data.nii.gz", tmp_path / "none.nii.gz", runs / "one" / "best.pt",
                    options=["--crop-size", "0"])


def test_a_cohort_is_segmented_as_each_ct_alone(runs, raw, check_cohort):
    checkpoints = [str(runs / name / "best.pt") for name in ("one", "two")]

    def run(source, output):
        return predict.main(["--input", str(source), "--output", str(output), *FAST, "--checkpoint", *checkpoints])

    rows = check_cohort(run, {f"P{name}": raw / name / "data.nii.gz" for name in ("1", "4")})
    assert float(rows["P4"]["brain stem ml"]) >= 0 and rows["none"]["volume_ml"] == ""


def test_a_checkpoint_of_the_authors_predicts(golden, raw, tmp_path):
    entries = json.loads((golden / "sepnet_unet_separate_coronal.json").read_text())["state"]
    values = fill_entries([(key, shape) for key, shape, *_ in entries], 20240)
    torch.save({f"module.{key}": torch.from_numpy(value) for key, value in values.items()}, tmp_path / "authors.pkl")
    labels = run_predict(raw / "1" / "data.nii.gz", tmp_path / "out.nrrd", tmp_path / "authors.pkl",
                         options=["--crop-size", "48"])
    assert sitk.GetArrayViewFromImage(labels).any()


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bad_checkpoints_are_refused(runs, raw, tmp_path, capsys):
    checkpoint = runs / "one" / "best.pt"
    state = torch.load(checkpoint, weights_only=True)
    last = list(state["model"])[-1]
    four = {name: value for name, value in state["config"].items() if name not in ("organs", "weights")}
    fewer = {**state, "config": {**four, "n_classes": 5}}
    bad = {"other": {**state, "project": "snet_neck_ln"}, "list": [1], "fewer": fewer,
           "foreign": {"a.weight": torch.zeros(1)},
           "missing": {**state, "model": {key: value for key, value in state["model"].items() if key != last}},
           "evil": Evil(), "settings": {**state, "config": {"speed": 3}}}
    for name, content in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    for name, word in (("other", "snet_neck_ln, not sepnet"), ("list", "holds a list"),
                       ("fewer", "other classes"),
                       ("missing", f"{last} is missing"), ("foreign", "foreign.pt: not a checkpoint of SepNet"),
                       ("evil", "plain tensors"), ("settings", "speed"), ("cut", "damaged"), ("empty", "damaged"),
                       ("absent", "no such checkpoint")):
        with pytest.raises(InputError, match=word):
            run_predict(raw / "1" / "data.nii.gz", tmp_path / "m.nrrd", tmp_path / f"{name}.pt")
    assert "executed" not in capsys.readouterr().out and not (tmp_path / "m.nrrd").exists()
    small = {**state, "config": {**state["config"], "crop_size": 32}}
    torch.save(small, tmp_path / "small.pt")
    with pytest.raises(InputError, match="small.pt: crop_size 32 differs from .*best.pt's 48"):
        run_predict(raw / "1" / "data.nii.gz", tmp_path / "m.nrrd", checkpoint, tmp_path / "small.pt")


def test_a_bad_scan_is_one_line_and_exit_code_2(runs, raw, tmp_path):
    scan = tmp_path / "Löcher und Lücken.nii.gz"
    shutil.copy(raw / "1" / "data.nii.gz", scan)
    scan.write_bytes(scan.read_bytes()[:3000])
    done = subprocess.run([sys.executable, "-m", "sepnet.predict", "--input", str(scan), "--output",
                           str(tmp_path / "m.nrrd"), "--checkpoint", str(runs / "one" / "best.pt")],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"predict.py: error: {scan}: ")
    assert len(done.stderr.splitlines()) == 1


def test_test_needs_a_run(tmp_path):
    with pytest.raises(InputError, match="no best.pt in it or one level below"):
        test.main(["--run-dir", str(tmp_path)])


def test_without_a_checkpoint_the_weights_that_ship_segment_any_grid(raw, tmp_path, capsys):
    scan = next(raw.glob("**/data.nii.gz"))
    predict.main(["--input", str(scan), "--output", str(tmp_path / "labels.nii.gz"), *FAST])
    assert "weights: " in capsys.readouterr().out and SHIPPED.stat().st_size < 12e6
    organs = json.loads((tmp_path / "labels.json").read_text())["organs"]
    assert [(row["label"], row["organ"]) for row in organs] == list(enumerate(ORGANS, 1))
