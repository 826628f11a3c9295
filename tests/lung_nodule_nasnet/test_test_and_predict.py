"""Scores of slices and scans, masks on the grid of their CT; bad input is one line."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk

from lung_nodule_nasnet import nasnet_v2, postprocess, predict, score_scans, score_slices, test, train_fpr
from lung_nodule_nasnet.checkpoint import load_checkpoint, save_checkpoint
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.postprocess import find_nodules
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import read_table, write_table
from shared_data.metrics import dice
from shared_data.settings import config_from_dict
from shared_data.volume import geometry, to_lps, write_volume
from tests.browser import check_viewer

rows = partial(read_table, columns=[])


@pytest.fixture(scope="module")
def checkpoint(run_dir, tmp_path_factory):
    """The last state of a run of two epochs: its masks mean nothing, but with --centre-distance 0 it marks pixels."""
    state, groups = load_checkpoint(run_dir / "last.npz")
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder / "best.npz", state, weights=groups["weights"])
    return folder / "best.npz"


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """A good checkpoint is loaded, and its network compiled, once for all tests."""
    prepare, networks = predict.prepare_network, {}

    def prepare_once(checkpoint, device, changes, tta=False):
        if checkpoint not in networks:
            networks[checkpoint] = prepare(checkpoint, device, {})
        network, config = networks[checkpoint]
        return network, replace(config, **changes)

    with pytest.MonkeyPatch.context() as patch:
        for module in (predict, score_scans, score_slices):
            patch.setattr(module, "prepare_network", prepare_once)
        yield


def run_predict(checkpoint, scan, output, *options):
    predict.main(["--input", str(scan), "--output", str(output), "--checkpoint", str(checkpoint), "--device", "cpu",
                  "--centre-distance", "0", *options])
    return sitk.ReadImage(str(output))


@pytest.fixture(scope="module")
def scored(checkpoint, run_dir, luna, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored")
    assert test.main(["--run-dir", str(run_dir), "--checkpoint", str(checkpoint), "--output-dir", str(out), "--scans",
                      str(luna), "--centre-distance", "0", "--bootstrap-samples", "50"]) == 0
    return out


def test_validation_slices(checkpoint, run_dir, prepared, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(score_slices, "SliceSequence", lambda *args, **more: read.append(SliceSequence(*args, **more))
                        or read[0])
    assert test.main(["--run-dir", str(run_dir), "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path),
                      "--centre-distance", "0", "--predict-batch", "4"]) == 0
    assert len(read[0][0][0]) == 4
    cases, summary = rows(tmp_path / "slices.csv"), json.loads((tmp_path / "summary.json").read_text())["scores"]
    assert len(cases) == summary["slices"] == len(json.loads((prepared / "slice_idx.json").read_text())["validation"])
    overlap, there, marked = (sum(int(row[name]) for row in cases)
                              for name in ("overlap_pixels", "reference_pixels", "mask_pixels"))
    assert summary["dice"] == pytest.approx(2 * overlap / (there + marked))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png") == 2 + (run_dir / "curves.png").exists()


def test_scans_are_scored_as_the_challenge_does(scored, luna):
    summary = json.loads((scored / "summary.json").read_text())
    assert summary["scores"]["nodules"] == len(rows(luna / "annotations.csv")) and len(summary["froc"]) == 7
    candidates = rows(scored / "candidates.csv")
    assert list(candidates[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    assert {row["class"] for row in rows(scored / "candidates_class.csv")} <= {"0", "1"}
    assert {path.name for path in scored.iterdir()} >= {"froc.png", "report.html", "cases.csv"}
    uid = rows(scored / "cases.csv")[0]["seriesuid"]
    nodules = [row for row in rows(luna / "annotations.csv") if row["seriesuid"] == uid]
    facts, layers = check_viewer(scored, uid, next(luna.rglob(f"{uid}.mhd")))
    ml = sum(4 / 3 * np.pi * (float(row["diameter_mm"]) / 2) ** 3 for row in nodules) / 1000
    assert layers["reference"].sum() * np.prod(facts["spacing"]) / 1000 == pytest.approx(ml, rel=0.3)


def test_scans_of_the_training_are_left_out(checkpoint, run_dir, raw, prepared, tmp_path):
    with pytest.raises(InputError, match="training has seen all 3 scans"):
        test.main(["--run-dir", str(run_dir), "--checkpoint", str(checkpoint), "--scans", str(raw), "--nodules",
                   str(prepared / "nodules.csv"), "--output-dir", str(tmp_path)])


def test_without_a_scan_with_a_nodule_there_is_no_score(checkpoint, run_dir, luna, tmp_path):
    shutil.copytree(luna, tmp_path / "luna")
    uid = min((luna / "subset0").glob("*.mhd")).stem
    (tmp_path / "luna" / "subset0" / f"{uid}.raw").write_bytes(b"cut")
    write_table(tmp_path / "nodules.csv", [row for row in rows(luna / "annotations.csv") if row["seriesuid"] == uid])
    with pytest.raises(InputError, match=f"every scan with a nodule was skipped. {uid}: .*damaged or cut short"):
        test.main(["--run-dir", str(run_dir), "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path / "out"),
                   "--scans", str(tmp_path / "luna"), "--nodules", str(tmp_path / "nodules.csv")])


def test_two_processes_score_as_one(scored, checkpoint, run_dir, luna, tmp_path):
    assert test.main(["--run-dir", str(run_dir), "--checkpoint", str(checkpoint), "--output-dir", str(tmp_path),
                      "--scans", str(luna), "--centre-distance", "0", "--bootstrap-samples", "50", "--workers",
                      "2"]) == 0
    for name in ("cases.csv", "candidates.csv"):
        assert (tmp_path / name).read_text() == (scored / name).read_text()


def test_predict_equals_test(scored, checkpoint, luna, tmp_path):
    scan = min((luna / "subset0").glob("*.mhd"))
    run_predict(checkpoint, scan, tmp_path / "mask.nii.gz")
    ours = rows(tmp_path / "mask_nodules.csv")
    theirs = [row for row in rows(scored / "candidates.csv") if row["seriesuid"] == scan.stem]
    columns = ("coordX", "coordY", "coordZ", "probability")
    assert ours and [[row[name] for name in columns] for row in ours] == [[row[name] for name in columns]
                                                                          for row in theirs]


def test_settings_of_the_cut_may_differ_from_the_checkpoints(checkpoint, luna, tmp_path):
    scan = min((luna / "subset0").glob("*.mhd"))
    assert not sitk.GetArrayFromImage(run_predict(checkpoint, scan, tmp_path / "m.nrrd", "--min-pixels", "9999")).any()


def test_one_ct_in_four_formats_gives_one_mask_on_its_own_grid(checkpoint, luna, tmp_path):
    ct = sitk.ReadImage(str(sorted((luna / "subset0").glob("*.mhd"))[1]))
    write_dicom_series(to_lps(ct), tmp_path / "dicom")
    turned = sitk.DICOMOrient(ct, "RAS")
    scans = [tmp_path / "dicom"]
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        write_volume(turned, tmp_path / f"ct{suffix}")
        scans.append(tmp_path / f"ct{suffix}")
    masks = [run_predict(checkpoint, scan, tmp_path / f"mask {i}{suffix}")
             for i, (scan, suffix) in enumerate(zip(scans, (".nii.gz", ".nrrd", ".mha", ".mhd")))]
    first = sitk.GetArrayFromImage(to_lps(masks[0]))
    for mask in masks:
        assert np.array_equal(sitk.GetArrayFromImage(to_lps(mask)), first)
    for key, value in geometry(turned).items():
        assert np.allclose(geometry(masks[1])[key], value, atol=1e-4), key
    summary = json.loads((tmp_path / "mask 1.json").read_text())
    assert summary["volume_ml"] == pytest.approx(first.sum() * np.prod(ct.GetSpacing()) / 1000)
    assert (tmp_path / "mask 1_overlay.png").stat().st_size > 1000


def test_dicom_outputs_hold_the_same_mask(checkpoint, luna, check_dicom_outputs):
    ct = sitk.ReadImage(str(sorted((luna / "subset0").glob("*.mhd"))[1]))
    check_dicom_outputs(to_lps(ct), {1: "nodule"}, partial(run_predict, checkpoint))


def test_postprocess_cuts_a_saved_probability_on_the_grid_of_the_ct(checkpoint, luna, tmp_path):
    scan = min((luna / "subset0").glob("*.mhd"))
    run_predict(checkpoint, scan, tmp_path / "a.nii.gz", "--save-probability", str(tmp_path / "p.nii.gz"))
    postprocess.main(["--probability", str(tmp_path / "p.nii.gz"), "--output", str(tmp_path / "b.nii.gz"),
                      "--centre-distance", "0"])
    probability, mask, predicted = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")))
                                    for name in "pba")
    expected = np.stack([postprocess.slice_mask(plane, Config(centre_distance=0)) for plane in probability])
    assert expected.any() and np.array_equal(mask, expected)
    assert dice(predicted > 0, mask > 0) > 0.5  # predict.py cuts on the network's grid


def test_nodules_are_listed_with_place_and_size():
    image = sitk.GetImageFromArray(np.zeros((20, 40, 40), np.int16))
    image.SetSpacing((0.5, 0.5, 2.0))
    image.SetOrigin((-10, 5, 100))
    mask, probability = np.zeros((20, 40, 40), np.uint8), np.zeros((20, 40, 40), np.float32)
    mask[5:8, 10:14, 20:24], probability[5:8] = 1, 0.5
    mask[15, 30, 30], probability[15] = 1, 0.9
    nodules, labels = find_nodules(mask, probability, image)
    assert [nodule["probability"] for nodule in nodules] == pytest.approx([0.9, 0.5])
    large = nodules[1]
    assert (large["coordX"], large["coordY"], large["coordZ"]) == pytest.approx((0.75, 10.75, 112))
    assert large["volume_ml"] == pytest.approx(48 * 0.5e-3) and large["slices"] == 3
    assert (labels == large["label"]).sum() == 48
    assert find_nodules(np.zeros_like(mask), probability, image)[0] == []


def test_the_reducer_learns_and_rates(luna, scored, checkpoint, tmp_path):
    candidates = tmp_path / "candidates.csv"
    rng = np.random.default_rng(0)
    found = []
    for row in rows(luna / "annotations.csv"):
        found.append({**row, "class": 1})
        image = sitk.ReadImage(str(luna / "subset0" / f"{row['seriesuid']}.mhd"))
        for _ in range(3):
            index = rng.uniform((20, 20, 1), (44, 44, 8)).tolist()
            at = image.TransformContinuousIndexToPhysicalPoint(index)
            found.append({**row, **dict(zip(("coordX", "coordY", "coordZ"), at)), "class": 0})
    write_table(candidates, found)
    fpr = tmp_path / "fpr.npz"
    assert train_fpr.main(["--data-dir", str(luna), "--candidates", str(candidates), "--output", str(fpr), "--epochs",
                           "3", "--validation-share", "0.5"]) == 0
    run_predict(checkpoint, min((luna / "subset0").glob("*.mhd")), tmp_path / "m.nrrd", "--reducer", str(fpr))
    with pytest.raises(InputError, match="of the kind segmentation, not reducer"):
        run_predict(checkpoint, min((luna / "subset0").glob("*.mhd")), tmp_path / "m.nrrd", "--reducer",
                    str(checkpoint))


def test_a_cohort_is_segmented_as_each_ct_alone(checkpoint, luna, tmp_path, check_cohort):
    def run(source, output):
        return predict.main(["--input", str(source), "--output", str(output), "--checkpoint", str(checkpoint),
                             "--device", "cpu", "--save-probability",
                             str(tmp_path / (f"p_{source.name}" if source.is_file() else "p"))])

    rows = check_cohort(run, {f"P{i}": scan for i, scan in enumerate(sorted((luna / "subset0").glob("*.mhd")))})
    assert int(rows["P0"]["nodules"]) >= 0 and (tmp_path / "p" / "P0_probability.nii.gz").exists()


def test_predict_never_writes_over_its_input(checkpoint, luna, tmp_path):
    for path in (luna / "subset0").glob("*"):
        shutil.copy(path, tmp_path)
    scan = next(tmp_path.glob("*.mhd"))
    for output, message in ((scan, "overwrite the input"), (tmp_path, "unknown format"),
                            (tmp_path / "a.png", "unknown format")):
        with pytest.raises(InputError, match=message):
            run_predict(checkpoint, scan, output)


def test_bad_checkpoints_are_refused(checkpoint, luna, tmp_path, monkeypatch):
    state, groups = load_checkpoint(checkpoint)
    weights = groups["weights"]
    network = nasnet_v2.build_network(config_from_dict(Config, state["config"], checkpoint))
    monkeypatch.setattr(nasnet_v2, "build_network", lambda config: network)
    save_checkpoint(tmp_path / "missing.npz", state, weights=weights[:-1])
    save_checkpoint(tmp_path / "shape.npz", state, weights=[np.zeros((3, 3, 3, 3)), *weights[1:]])
    save_checkpoint(tmp_path / "classes.npz", state, weights=[*weights[:-1], np.zeros(3)])
    save_checkpoint(tmp_path / "nan.npz", state, weights=[np.full(weights[0].shape, np.nan), *weights[1:]])
    save_checkpoint(tmp_path / "settings.npz", {"config": {"speed": 3}}, weights=weights)
    np.savez(tmp_path / "other.npz", state=json.dumps({"project": "sepnet", "config": {}}))
    np.savez(tmp_path / "pickled.npz", state=np.array([print], dtype=object))
    (tmp_path / "cut.npz").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    for name, word in (("missing", "weights, the network has"), ("shape", "the network's"),
                       ("classes", "the network's"), ("nan", "not numbers"), ("settings", "speed"),
                       ("other", "not a checkpoint of lung_nodule_nasnet"),
                       ("pickled", "damaged"), ("cut", "damaged"), ("text", "damaged"), ("empty", "damaged"),
                       ("absent", "no such checkpoint")):
        with pytest.raises(InputError, match=word):
            run_predict(tmp_path / f"{name}.npz", min((luna / "subset0").glob("*.mhd")), tmp_path / "m.nrrd")
    assert not (tmp_path / "m.nrrd").exists()


def test_a_bad_scan_is_one_line_and_exit_code_2(checkpoint, tmp_path):
    scan = tmp_path / "Löcher und Lücken.nii.gz"
    noise = np.random.default_rng(0).integers(-900, 300, (4, 30, 30)).astype(np.int16)
    write_volume(sitk.GetImageFromArray(noise), scan)
    scan.write_bytes(scan.read_bytes()[:2000])
    done = subprocess.run([sys.executable, "-m", "lung_nodule_nasnet.predict", "--input", str(scan), "--checkpoint",
                           str(checkpoint), "--output", str(tmp_path / "m.nrrd")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"predict.py: error: {scan}: ")
    assert len(done.stderr.splitlines()) == 1


def test_test_needs_a_run(tmp_path):
    with pytest.raises(InputError, match="best.npz: no such checkpoint"):
        test.main(["--run-dir", str(tmp_path)])
