"""From checkpoints to scores and label maps on the CT's own grid; bad input is one line."""
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given
from hypothesis import strategies as st

from focusnet_v2 import checkpoint, demo, predict, test
from focusnet_v2.checkpoint import load_network
from focusnet_v2.config import PDDCA, Config
from focusnet_v2.inference import fuse, predict_volume, segment_ct, window_starts
from focusnet_v2.networks import FocusNet
from focusnet_v2.scoring import score_organs, summarise
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.metrics import dice
from shared_data.openkbp import ORGANS
from shared_data.volume import geometry, write_volume
from tests.browser import check_viewer

STAGES = ("backbone", "SOL", "adversarial")


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def rows_of(path):
    return read_table(path, [])


def run_predict(scan, output, checkpoint, *options):
    predict.main(["--input", str(scan), "--output", str(output), "--checkpoint", str(checkpoint), "--device", "cpu",
                  *options])
    return sitk.ReadImage(str(output))


@pytest.fixture(scope="module")
def scored(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    assert test.main(["--run-dir", str(run_dir), "--output-dir", str(out)]) == 0
    return out


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_windows_cover_every_slice_and_none_comes_twice(more, window, step):
    starts = window_starts(window + more - 1, window, min(step, window))
    assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] == more - 1
    assert all(later - earlier <= window for earlier, later in zip(starts, starts[1:]))


def test_windows_are_the_authors_without_their_repeats(golden):
    layouts = json.loads((golden / "prep_focusnet_resample.json").read_text())["sliding_windows"]
    for name, layout in layouts.items():
        theirs = list(dict.fromkeys(start for start, _ in layout["windows"]))
        assert window_starts(int(name.removeprefix("depth_")), 40, 20) == theirs


class Sure(torch.nn.Module):
    """Says what it is told: one class everywhere, heatmap peaks of that value, boxes full or empty."""

    def __init__(self, peak, small):
        super().__init__()
        self.peak, self.small = peak, small

    def forward(self, image):
        logits = torch.zeros(1, 10, *image.shape[2:])
        logits[:, 4] = 5  # left optic nerve everywhere, then parotid
        logits[:, 6] = 3
        heatmap = torch.zeros(1, 3, *image.shape[2:])
        heatmap[0, :, 4, 10, 20] = self.peak
        return {"logits": logits, "heatmap": heatmap, "small": torch.full((1, 3, 8, 16, 16), self.small),
                "corners": torch.tensor([[[0, 2, 12]] * 3])}


def test_a_small_organ_is_the_branchs_where_its_box_counts_and_nothing_is_nan():
    config = Config(patch_zyx=(8, 32, 32), box_zyx=(8, 16, 16), window_step=6, window_side=32, precision="32-true")
    hu = np.zeros((11, 40, 28), np.int16)  # wider than the patch along y, narrower along x
    for peak, small, counted in ((0.7, 5.0, True), (0.7, -5.0, True), (0.5, 5.0, False)):
        prediction = predict_volume(Sure(peak, small), hu, config, torch.device("cpu"))
        assert prediction["counted"].tolist() == [counted] * 3 and prediction["start"] == (0, 4, -2)
        assert all(part is None or np.isfinite(part).all() for name, part in prediction.items() if name != "start")
        main, final = fuse(prediction, config)
        assert (main == 4).all() and main.shape == (11, 32, 32)
        if not counted:
            assert np.array_equal(main, final)
        elif small < 0:
            assert (final == 6).all()  # the next probable
        else:
            assert set(np.unique(final)) == {2, 6} and (final == 2).sum() == 11 * 16 * 16  # equal ones: the first


def test_scores_come_from_the_written_label_maps(scored, raw):
    rows = rows_of(scored / "organs.csv")
    assert [row["organ"] for row in rows] == list(PDDCA["organs"]) and {row["case"] for row in rows} == {"P5"}
    prediction = sitk.ReadImage(str(scored / "predictions" / "P5.nrrd"))
    for label, row in enumerate(rows, 1):
        mask = sitk.ReadImage(str(raw / "P5" / "structures" / f"{row['organ']}.nrrd"))
        assert np.allclose(prediction.GetOrigin(), mask.GetOrigin())
        reference = sitk.GetArrayFromImage(mask) > 0
        assert float(row["dice"]) == pytest.approx(dice(reference, sitk.GetArrayFromImage(prediction) == label))
    small = rows_of(scored / "small_organs.csv")
    assert [row["organ"] for row in small] == list(PDDCA["small"])
    page = (scored / "report.html").read_text(encoding="utf-8")
    check_viewer(scored, "P5", raw / "P5" / "img.nrrd", (-500, 500), np.median,
                 prediction=scored / "predictions" / "P5.nrrd")
    assert page.count("data:image/png") == 4 and "human_dice" in page and "oncologist against a radiographer" in page


def test_missing_organs_are_not_contoured_and_enter_no_mean(run_dir, raw, prepared, tmp_path, capsys):
    out = tmp_path / "train"
    test.main(["--run-dir", str(run_dir), "--split", "train", "--output-dir", str(out)])
    rows = {(row["case"], row["organ"]): row for row in rows_of(out / "organs.csv")}
    assert rows["P2", "Submandibular_R"]["reference"] == "not contoured"
    assert rows["P2", "Submandibular_R"]["dice"] == "nan" and rows["P1", "Submandibular_R"]["dice"] != "nan"
    summary = {row["organ"]: row for row in json.loads((out / "summary.json").read_text())["organs"]}
    assert summary["Submandibular_R"]["n_dice"] == summary["BrainStem"]["n_dice"] - 1


def test_infinite_distances_are_left_out_and_counted():
    reference, prediction = np.zeros((2, 4, 8, 8), np.uint8)
    reference[1, 2:6, 2:6] = 1
    row = score_organs("P", reference, prediction, (1, 1, 3), {1: "BrainStem"})[0]
    assert row["dice"] == 0 and row["hd95_mm"] == np.inf
    summary = summarise([row], ("dice", "hd95_mm"))[0]
    assert summary["n_dice"] == 1 and summary["n_hd95_mm"] == 0 and np.isnan(summary["hd95_mm"])


def test_dicom_outputs_hold_the_same_labels(run_dir, raw, check_dicom_outputs):
    def run(scan, output, *options):
        return run_predict(scan, output, run_dir / "backbone" / "best.pt", *options)
    check_dicom_outputs(sitk.ReadImage(str(raw / "P1" / "img.nrrd")), dict(enumerate(Config().organs, 1)), run)


def test_predict_takes_precision_and_thresholds(run_dir, raw, tmp_path, monkeypatch):
    seen = []

    def stop(network, ct, image, config, *_):
        seen.append((config.precision, config.heatmap_threshold, config.small_threshold))
        raise InputError("seen")

    monkeypatch.setattr(predict, "segment_ct", stop)
    for options in ([], ["--precision", "bf16-mixed", "--heatmap-threshold", "0.3", "--small-threshold", "0.2"]):
        with pytest.raises(InputError, match="seen"):
            run_predict(raw / "P1" / "img.nrrd", tmp_path / "m.nrrd", run_dir / "SOL" / "best.pt", *options)
    assert seen == [("32-true", 0.6, 0.5), ("bf16-mixed", 0.3, 0.2)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_scored_and_predicts(stage, run_dir, raw, tmp_path):
    test.main(["--run-dir", str(run_dir / stage), "--output-dir", str(tmp_path / "scored")])
    summary = json.loads((tmp_path / "scored" / "summary.json").read_text())
    assert summary["stage"] == stage
    labels = run_predict(raw / "P5" / "img.nrrd", tmp_path / "labels.nrrd", run_dir / stage / "best.pt")
    assert np.array_equal(sitk.GetArrayFromImage(labels), array(tmp_path / "scored" / "predictions" / "P5.nrrd"))
    rows = json.loads((tmp_path / "labels.json").read_text())["organs"]
    voxel_ml = np.prod(labels.GetSpacing()) / 1000
    for row in rows:
        assert row["volume_ml"] == pytest.approx((sitk.GetArrayFromImage(labels) == row["label"]).sum() * voxel_ml)
    assert ("peak" in rows[1]) == (stage != "backbone")
    assert (tmp_path / "labels_overlay.png").stat().st_size > 1000


def test_one_ct_in_three_formats_and_another_orientation_gives_one_map(run_dir, raw, tmp_path):
    checkpoint = run_dir / "adversarial" / "best.pt"
    first = run_predict(raw / "P1" / "img.nrrd", tmp_path / "first.nii.gz", checkpoint)
    ct = sitk.DICOMOrient(sitk.ReadImage(str(raw / "P1" / "img.nrrd")), "RAS")
    write_dicom_series(ct, tmp_path / "dicom")
    write_volume(ct, tmp_path / "Schädel 1.nii.gz")
    for scan, output in ((tmp_path / "dicom", "a b.mha"), (tmp_path / "Schädel 1.nii.gz", "ä.mhd")):
        labels = run_predict(scan, tmp_path / output, checkpoint)
        for key, value in geometry(ct).items():
            assert np.allclose(geometry(labels)[key], value, atol=1e-4), key
        assert np.array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(labels, "LPS")), sitk.GetArrayFromImage(first))


def test_a_head_off_the_middle_is_segmented_and_any_integer_type_is_drawn(run_dir, raw, tmp_path):
    ct = sitk.ReadImage(str(raw / "P1" / "img.nrrd"))
    moved = sitk.ConstantPad(ct, (40, 0, 0), (0, 0, 0), -1024)  # 40 voxels of air on the patient's right
    write_volume(moved, tmp_path / "moved.nrrd")
    labels = [sitk.GetArrayFromImage(run_predict(path, tmp_path / "m.nrrd", run_dir / "backbone" / "best.pt"))
              for path in (raw / "P1" / "img.nrrd", tmp_path / "moved.nrrd")]
    assert dice(labels[0] > 0, labels[1][..., 40:] > 0) > 0.9 and not labels[1][..., :30].any()
    write_volume(sitk.Cast(sitk.ReadImage(str(raw / "P1" / "img.nrrd")) + 1024, sitk.sitkUInt16), tmp_path / "u.nrrd")
    run_predict(tmp_path / "u.nrrd", tmp_path / "m.nrrd", run_dir / "backbone" / "best.pt")


@pytest.mark.parametrize("part, spacing", [
    ((slice(None), slice(None), slice(0, 4)), None), ((slice(3, 20), slice(8, 45), slice(0, 9)), None),
    ((slice(None),) * 3, (3.1, 5.2, 7.5)), ((slice(None),) * 3, (9.0, 9.0, 5.0))])
def test_short_narrow_and_anisotropic_cts(run_dir, raw, tmp_path, part, spacing):
    ct = sitk.ReadImage(str(raw / "P1" / "img.nrrd"))[part]
    if spacing:
        ct.SetSpacing(spacing)
    write_volume(ct, tmp_path / "ct.nii.gz")
    labels = run_predict(tmp_path / "ct.nii.gz", tmp_path / "out.nii.gz", run_dir / "adversarial" / "best.pt")
    assert labels.GetSize() == ct.GetSize() and np.allclose(labels.GetSpacing(), ct.GetSpacing())


def test_a_true_answer_comes_back_in_its_place(raw, prepared):
    """A network that knows the labels on its grid: through resampling and back, the organs lie where they were."""
    seen, label, image = (sitk.ReadImage(str(prepared / "resampled" / "P1" / f"{name}.nrrd"))
                          for name in ("image", "label", "reference"))
    config = Config(patch_zyx=(20, 52, 52), spacing_xyz=(4, 4, 5), box_zyx=(8, 16, 16), precision="32-true",
                    window_side=52)
    truth = torch.from_numpy(sitk.GetArrayFromImage(label)).long()

    class Knows(torch.nn.Module):
        def forward(self, unit_image):
            onehot = torch.nn.functional.one_hot(truth, 10).movedim(-1, 0)[None].float()
            return 20 * onehot[..., :52, :52]

    assert truth.shape == (20, 52, 52)
    result = segment_ct(Knows(), image, seen, config, torch.device("cpu"))
    reference = sitk.GetArrayFromImage(image)
    for organ in (1, 3, 6, 7):
        assert dice(reference == organ, result["final"] == organ) > 0.75


def test_a_cohort_is_segmented_as_each_ct_alone(run_dir, raw, check_cohort):
    def run(source, output):
        return predict.main(["--input", str(source), "--output", str(output), "--device", "cpu", "--checkpoint",
                             str(run_dir / "adversarial" / "best.pt")])

    rows = check_cohort(run, {name: raw / name / "img.nrrd" for name in ("P1", "P5")})
    assert float(rows["P5"]["BrainStem ml"]) >= 0


def test_checkpoints_of_the_authors_predict(filled_state, whole_state, raw, tmp_path, monkeypatch):
    ct = sitk.ReadImage(str(raw / "P1" / "img.nrrd"))
    ct.SetSpacing((0.5, 0.5, 2.5))  # a small field of view: one window
    write_volume(ct[:, :, :10], tmp_path / "ct.nrrd")
    monkeypatch.setattr(checkpoint, "Config", lambda: Config(patch_zyx=(16, 64, 64), window_step=16))
    torch.save({"model": {f"module.{key}": value for key, value in filled_state("focusnet_snet3d").items()}},
               tmp_path / "snet.pth")
    labels = run_predict(tmp_path / "ct.nrrd", tmp_path / "out.nrrd", tmp_path / "snet.pth")
    assert sitk.GetArrayViewFromImage(labels).any()
    torch.save(filled_state("focusnet_shape_autoencoder"), tmp_path / "ae.pth")
    with pytest.raises(InputError, match="ae.pth: the auto-encoder, which segments nothing"):
        run_predict(tmp_path / "ct.nrrd", tmp_path / "out.nrrd", tmp_path / "ae.pth")
    monkeypatch.undo()
    torch.save(whole_state(), tmp_path / "whole.pth")
    network, config, stage = load_network(tmp_path / "whole.pth")
    assert isinstance(network, FocusNet) and stage == "adversarial" and config == Config()


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bad_checkpoints_are_refused(run_dir, raw, tmp_path, capsys):
    whole = run_dir / "adversarial" / "best.pt"
    state = torch.load(whole, weights_only=True)
    last = list(state["model"])[-1]
    bad = {"other": {**state, "project": "sepnet"}, "list": [1], "foreign": {"a.weight": torch.zeros(1)},
           "wide": {**state, "config": {**state["config"], "width": 16}}, "stage": {**state, "stage": "other"},
           "missing": {**state, "model": {key: value for key, value in state["model"].items() if key != last}},
           "evil": Evil(), "settings": {**state, "config": {"speed": 3}}}
    for name, content in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "empty.pt").touch()
    shutil.copy(run_dir / "autoencoder" / "best.pt", tmp_path / "ae.pt")
    for name, word in (("other", "sepnet, not focusnet_v2"), ("list", "holds a list"), ("wide", "another width"),
                       ("missing", f"{last} is missing"), ("foreign", "foreign.pt: not a checkpoint of FocusNet"),
                       ("stage", "holds no model"), ("evil", "plain tensors"), ("settings", "speed"),
                       ("cut", "damaged"), ("empty", "damaged"),
                       ("absent", "no such checkpoint"), ("ae", "segments nothing")):
        with pytest.raises(InputError, match=word):
            run_predict(raw / "P1" / "img.nrrd", tmp_path / "m.nrrd", tmp_path / f"{name}.pt")
    assert "executed" not in capsys.readouterr().out and not (tmp_path / "m.nrrd").exists()
    with pytest.raises(InputError, match="would overwrite the input"):
        run_predict(raw / "P1" / "img.nrrd", raw / "P1" / "img.nrrd", whole)


def test_a_bad_scan_is_one_line_and_exit_code_2(run_dir, raw, tmp_path):
    scan = tmp_path / "Löcher und Lücken.nrrd"
    scan.write_bytes((raw / "P1" / "img.nrrd").read_bytes()[:3000])
    done = subprocess.run([sys.executable, "-m", "focusnet_v2.predict", "--input", str(scan), "--output",
                           str(tmp_path / "m.nrrd"), "--checkpoint", str(run_dir / "backbone" / "best.pt")],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"predict.py: error: {scan}: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_test_goes_on_without_a_damaged_case_and_needs_a_run(run_dir, prepared, tmp_path, capfd, workers):
    shutil.copytree(prepared, tmp_path / "prepared")
    options = ["--run-dir", str(run_dir), "--prepared-dir", str(tmp_path / "prepared"), "--output-dir", str(tmp_path)]
    damaged = tmp_path / "prepared" / "resampled" / "P1" / "image.nrrd"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert test.main([*options, "--split", "train", "--workers", workers]) == 1
    assert "skipped P1: " in capfd.readouterr().err and (tmp_path / "report.html").exists()
    shutil.rmtree(tmp_path / "prepared" / "resampled" / "P5")
    with pytest.raises(InputError, match="no case could be used.*P5"):
        test.main(options)
    with pytest.raises(InputError, match="no best.pt of any stage in it"):
        test.main(["--run-dir", str(tmp_path)])


def test_the_demo_does_not_empty_a_folder_that_is_not_its_own(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty. Name a new folder"):
        demo.main(["--folder", str(tmp_path)])


def test_without_a_checkpoint_the_weights_that_ship_segment_any_grid(raw, tmp_path, capsys):
    predict.main(["--input", str(raw / "P1" / "img.nrrd"), "--output", str(tmp_path / "labels.nii.gz"), "--device",
                  "cpu"])
    assert "weights: " in capsys.readouterr().out and checkpoint.SHIPPED.stat().st_size < 12e6
    organs = json.loads((tmp_path / "labels.json").read_text())["organs"]
    assert [(row["label"], row["organ"]) for row in organs] == list(enumerate(ORGANS, 1))
