"""Scores and masks in the geometry of the whole CT; bad checkpoints and scans are one line."""
import json
import shutil
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from retroln_nnunet import crop, predict, test, train
from retroln_nnunet.config import Config
from retroln_nnunet.original_checkpoint import load_original_checkpoint, read_checkpoint
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_data.volume import geometry, write_volume
from tests.browser import check_viewer


def run_predict(checkpoint, ct, vertebrae, output, *options):
    predict.main(["--checkpoint", str(checkpoint), "--input", str(ct), "--vertebrae", str(vertebrae), "--output",
                  str(output), "--device", "cpu", "--no-mirror", *options])
    return sitk.ReadImage(str(output))


def test_a_perfect_prediction_pasted_back_is_the_reference(folders, processed, trained, raw, tmp_path):
    assert test.main([*folders, "--predictions-dir", str(processed / "labels"), "--output-dir", str(tmp_path)]) == 0
    rows = read_table(tmp_path / "cases.csv", ["dice", "hd95_mm", "volume_error_ml", "false_positives"])
    assert [row["case"] for row in rows] == ["P4"] and float(rows[0]["dice"]) == 1 and float(rows[0]["hd95_mm"]) == 0
    reference = sitk.ReadImage(str(raw / "masks" / "P4.nii.gz"))
    pasted = sitk.ReadImage(str(tmp_path / "predictions" / "P4.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(pasted), sitk.GetArrayFromImage(reference))
    assert np.allclose(pasted.GetOrigin(), reference.GetOrigin()) and pasted.GetSize() == reference.GetSize()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "P4" in page and "data:image/png" in page
    check_viewer(tmp_path, "P4", raw / "CT" / "P4_0000.nii.gz", prediction=tmp_path / "predictions" / "P4.nii.gz",
                 reference=raw / "masks" / "P4.nii.gz")
    assert [row["short axis"] for row in read_json(tmp_path / "summary.json")["detection"]] == [
        "all", "< 5 mm", "5-10 mm", ">= 10 mm"]


def test_the_validation_fold_is_scored_in_a_folder_of_its_name(folders, processed, trained):
    assert test.main([*folders, "--split", "valid", "--predictions-dir", str(processed / "labels")]) == 0
    out = train.model_dir(Config(nnunet_dir=trained)) / "fold_0" / "valid"
    assert [(row["case"], float(row["dice"])) for row in read_table(out / "cases.csv", [])] == [("P1", 1)]
    assert read_json(out / "summary.json")["split"] == "valid"


def test_predict_equals_test_and_lies_on_the_grid_of_the_ct(folders, checkpoint, raw, tmp_path):
    assert test.main([*folders, "--output-dir", str(tmp_path / "t"), "--device", "cpu", "--no-mirror"]) == 0
    expected = sitk.ReadImage(str(tmp_path / "t" / "predictions" / "P4.nii.gz"))
    ct = sitk.ReadImage(str(raw / "CT" / "P4_0000.nii.gz"))
    mask = run_predict(checkpoint, raw / "CT" / "P4_0000.nii.gz", raw / "vertebrae" / "P4", tmp_path / "m.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(expected))
    for key, value in geometry(ct).items():
        assert np.allclose(geometry(mask)[key], value, atol=1e-4), key
    assert json.loads((tmp_path / "m.json").read_text())["region"]["reference"] == "L2"
    assert (tmp_path / "m_overlay.png").stat().st_size > 1000


def test_formats_orders_and_dicom(checkpoint, raw, tmp_path):
    ct = sitk.ReadImage(str(raw / "CT" / "P4_0000.nii.gz"))
    write_dicom_series(ct, tmp_path / "dicom")
    first = run_predict(checkpoint, tmp_path / "dicom", raw / "vertebrae" / "P4", tmp_path / "a.mhd")
    vertebrae = tmp_path / "v"
    for path in (raw / "vertebrae" / "P4").iterdir():
        write_volume(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"), vertebrae / path.name)
    write_volume(ct, tmp_path / "ct ä.nrrd")
    second = run_predict(checkpoint, tmp_path / "ct ä.nrrd", vertebrae, tmp_path / "b ö.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second))


def test_dicom_outputs_hold_the_same_mask(checkpoint, raw, check_dicom_outputs):
    def run(folder, *given):
        return run_predict(checkpoint, folder, raw / "vertebrae" / "P4", *given)
    check_dicom_outputs(sitk.ReadImage(str(raw / "CT" / "P4_0000.nii.gz")), {1: "lymph node"}, run)


def test_without_vertebrae_totalsegmentator_finds_them(checkpoint, raw, stand_in, tmp_path, monkeypatch, capsys):
    log, ct = stand_in(case="P4"), sitk.ReadImage(str(raw / "CT" / "P4_0000.nii.gz"))
    write_dicom_series(ct, tmp_path / "ct dicom")
    expected = run_predict(checkpoint, raw / "CT" / "P4_0000.nii.gz", raw / "vertebrae" / "P4", tmp_path / "m.nii.gz")
    for source in (raw / "CT" / "P4_0000.nii.gz", tmp_path / "ct dicom"):
        predict.main(["--checkpoint", str(checkpoint), "--input", str(source), "--output", str(tmp_path / "n.nii.gz"),
                      "--device", "cpu", "--no-mirror", "--fast", "--vert-seg-device", "cpu"])
        mask = sitk.ReadImage(str(tmp_path / "n.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(expected))
    assert all("--device cpu" in line and "--fast" in line for line in log.read_text().splitlines())
    shutil.copy(raw / "CT" / "P4_0000.nii.gz", tmp_path / "memory_0000.nii.gz")
    with pytest.raises(InputError, match="Add --fast, or --vert-seg-device cpu. Or give --vertebrae"):
        predict.main(["--checkpoint", str(checkpoint), "--input", str(tmp_path / "memory_0000.nii.gz"), "--output",
                      str(tmp_path / "o.nii.gz"), "--device", "cpu"])


def test_a_cohort_is_segmented_as_each_ct_alone(checkpoint, raw, check_cohort):
    def run(source, output):
        vertebrae = raw / "vertebrae"
        return predict.main(["--input", str(source), "--output", str(output), "--checkpoint", str(checkpoint),
                             "--vertebrae", str(vertebrae / source.name[:2] if source.is_file() else vertebrae),
                             "--device", "cpu", "--no-mirror"])

    rows = check_cohort(run, {name: raw / "CT" / f"{name}_0000.nii.gz" for name in ("P1", "P4")})
    assert float(rows["P4"]["volume_ml"]) >= 0


def test_totalsegmentator_runs_for_each_ct_of_a_cohort(checkpoint, raw, tmp_path, stand_in, check_cohort):
    log = stand_in()

    def run(source, output):
        return predict.main(["--input", str(source), "--output", str(output), "--checkpoint", str(checkpoint),
                             "--device", "cpu", "--no-mirror"])

    check_cohort(run, {"P1": raw / "CT" / "P1_0000.nii.gz"})
    assert len(log.read_text().splitlines()) == 2


def test_predict_never_writes_over_its_input(checkpoint, raw, tmp_path):
    scan = tmp_path / "ct.nii.gz"
    shutil.copy(raw / "CT" / "P4_0000.nii.gz", scan)
    for output, message in ((scan, "overwrite the input"), (tmp_path, "unknown format")):
        with pytest.raises(InputError, match=message):
            run_predict(checkpoint, scan, raw / "vertebrae" / "P4", output)
    assert scan.read_bytes() == (raw / "CT" / "P4_0000.nii.gz").read_bytes()


def test_a_checkpoint_alone_is_enough(checkpoint, raw, tmp_path):
    """As the authors' would come: without plans.json, dataset.json and region.json beside it."""
    shutil.copy(checkpoint, tmp_path / "authors.pth")
    one, other = (run_predict(path, raw / "CT" / "P4_0000.nii.gz", raw / "vertebrae" / "P4", tmp_path / "m.nrrd")
                  for path in (checkpoint, tmp_path / "authors.pth"))
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(other))


def test_original_checkpoints_become_networks(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=False)
    network = load_original_checkpoint(checkpoint)
    wrapped = {f"module._orig_mod.{key}": value for key, value in state["network_weights"].items()}
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        expected = network(image)
        assert expected.shape == (1, 2, 32, 32, 32)
        assert load_original_checkpoint({**state, "network_weights": wrapped})(image).equal(expected)
        assert load_original_checkpoint(state["network_weights"], base_features=4)(image).equal(expected)
    with pytest.raises(InputError, match="the state dict: encoder.stages.0.0.convs.0.conv.weight has shape"):
        load_original_checkpoint(state["network_weights"])
    torch.save(state["network_weights"], tmp_path / "bare.pth")
    assert load_original_checkpoint(tmp_path / "bare.pth", base_features=4)(image).equal(expected)


def test_checkpoints_of_older_numpy_are_read(checkpoint, tmp_path):
    """Before NumPy 2 its scalars were pickled under another address."""
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(tmp_path / "old.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    assert read_checkpoint(tmp_path / "old.pth")["trainer_name"] == train.TRAINER


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("executed",))


def test_bad_checkpoints_are_refused(checkpoint, raw, tmp_path, capsys):
    state = torch.load(checkpoint, weights_only=False)
    key = next(name for name, value in state["network_weights"].items() if name.endswith("seg_layers.4.weight"))
    weights = state["network_weights"]
    classes = {**weights, key: torch.zeros(3, 4, 1, 1, 1)}
    three = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2}}
    liver = {**state, "init_args": {**state["init_args"], "dataset_json": three}, "network_weights": {
        name: torch.cat([value, value[:1]]) if ".seg_layers." in name else value for name, value in weights.items()}}
    nan = {**weights, key: weights[key] * torch.nan}
    less = {name: value for name, value in weights.items() if name != key}
    more = {**weights, "more.weight": torch.zeros(1)}
    shutil.copytree(checkpoint.parents[1], tmp_path / "model")
    fold = tmp_path / "model" / "fold_0"
    for name, content in {"evil": Evil(), "list": [1], "foreign": {"model": {}},
                          "classes": {**state, "network_weights": classes}, "nan": {**state, "network_weights": nan},
                          "less": {**state, "network_weights": less}, "more": {**state, "network_weights": more},
                          "planless": {**state, "init_args": {}}, "liver": liver}.items():
        torch.save(content, fold / f"{name}.pth")
    (fold / "cut.pth").write_bytes(checkpoint.read_bytes()[:5000])
    (fold / "text.pth").write_text("hello")
    for name, word in (("evil", "plain tensors"), ("list", "holds a list, not a checkpoint"),
                       ("foreign", "not a checkpoint"), ("classes", f"{key} has shape"), ("cut", "damaged"),
                       ("nan", f"{key} holds values"), ("less", f"{key} is missing"),
                       ("more", "more.weight has no place"), ("planless", "its plans are missing"),
                       ("liver", "1 channels and 3 classes"), ("text", "damaged"), ("absent", "no such checkpoint")):
        with pytest.raises(InputError, match=word):
            run_predict(fold / f"{name}.pth", raw / "CT" / "P4_0000.nii.gz", raw / "vertebrae" / "P4",
                        tmp_path / "m.nrrd")
    assert "executed" not in capsys.readouterr().out and not (tmp_path / "m.nrrd").exists()


def test_bad_input_is_refused(checkpoint, raw, tmp_path):
    scan = tmp_path / "Löcher und Lücken.nii.gz"
    scan.write_bytes((raw / "CT" / "P1_0000.nii.gz").read_bytes()[:3000])
    with pytest.raises(InputError, match=f"{scan}: damaged or cut short"):
        run_predict(checkpoint, scan, raw / "vertebrae" / "P1", tmp_path / "m.nrrd")
    with pytest.raises(InputError, match="unknown format"):
        run_predict(checkpoint, scan, raw, tmp_path / "m.png")
    with pytest.raises(InputError, match="required: --input, --output"):
        predict.main(["--checkpoint", str(checkpoint)])


def test_predictions_in_lps_are_scored_whatever_the_order_of_the_ct(folders, processed, raw, tmp_path, capsys):
    """nnU-Net sees the crops in LPS, and so the plain commands predict."""
    for path in raw.rglob("*.nii.gz"):
        write_volume(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SLP"), tmp_path / "raw" / path.relative_to(raw))
    assert crop.main(["--data-dir", str(tmp_path / "raw"), "--output-dir", str(tmp_path / "p")]) == 0
    options = ["--prepared-dir", str(tmp_path / "p"), *folders[2:], "--predictions-dir", str(processed / "labels"),
               "--output-dir", str(tmp_path / "out")]
    assert test.main(options) == 0
    assert float(read_table(tmp_path / "out" / "cases.csv", ["dice"])[0]["dice"]) == 1
    (tmp_path / "p" / "regions" / "P4.json").write_text("{}")
    with pytest.raises(InputError, match="no case could be used. P4: .*damaged, or of a case without a mask"):
        test.main(options)


def test_test_needs_a_prepared_data_set(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        test.main(["--nnunet-dir", str(tmp_path)])
    with pytest.raises(InputError, match="recipe.json: no such file"):
        test.main(["--nnunet-dir", str(tmp_path), "--predictions-dir", str(tmp_path)])
