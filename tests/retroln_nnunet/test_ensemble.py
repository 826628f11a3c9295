"""nnU-Net's folds give their mean probability, and a map of where they disagree."""
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from retroln_nnunet import predict, test, train
from retroln_nnunet.config import Config
from retroln_nnunet.model import find_folds, load_members, predict_crop, predict_members
from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json
from shared_data.volume import read_volume, to_lps


@pytest.fixture(scope="module")
def model(trained, checkpoint, tmp_path_factory):
    """Three folds: the trained one, and two that differ in how much they call node."""
    folder = tmp_path_factory.mktemp("folds") / train.model_dir(Config()).name
    state = torch.load(checkpoint, weights_only=False)
    (folder / "fold_0").mkdir(parents=True)
    for name in ("region.json",):
        (folder / name).write_bytes((checkpoint.parents[1] / name).read_bytes())
    last = [name for name in state["network_weights"] if name.endswith("bias") and "seg_layers" in name][-1]
    for number, shift in enumerate((0.0, 30.0, -30.0)):
        weights = {**state["network_weights"], last: state["network_weights"][last] + torch.tensor([0.0, shift])}
        (folder / f"fold_{number}").mkdir(exist_ok=True)
        torch.save({**state, "network_weights": weights}, folder / f"fold_{number}" / "checkpoint_final.pth")
    return folder


def test_members_give_their_mean_probability_and_their_votes(model, processed):
    predictors = load_members(find_folds(model), torch.device("cpu"), mirror=False)
    crop = read_volume(processed / "images" / "P4_0000.nii.gz")
    mask, votes = predict_members(predictors, crop)
    one, everything, nothing = map(sitk.GetArrayFromImage, votes)
    assert everything.all() and not nothing.any() and mask.GetSize() == crop.GetSize()
    assert np.array_equal(one, sitk.GetArrayFromImage(predict_crop(predictors[0], crop)))
    assert np.array_equal(sitk.GetArrayFromImage(mask), one)  # (p + 1 + 0) / 3 > 1/2 where p > 1/2
    maps = []
    sure, _ = predict_members(predictors[:1], crop, 0.6, maps.append)
    assert np.array_equal(sitk.GetArrayFromImage(to_lps(sure)), maps[0] > 0.6) and 0 < maps[0].max() <= 1
    alone, none = predict_members(predictors[:1], crop)
    assert none is None and np.array_equal(sitk.GetArrayFromImage(alone), one)


def test_folds_predict_and_score_together(model, raw, folders, trained, tmp_path):
    predict.main(["--input", str(raw / "CT" / "P4_0000.nii.gz"), "--vertebrae", str(raw / "vertebrae" / "P4"),
                  "--output", str(tmp_path / "nodes.nii.gz"), "--device", "cpu", "--no-mirror", "--ensemble",
                  str(model)])
    entropy = read_volume(tmp_path / "nodes_uncertainty.nii.gz")
    assert entropy.GetSize() == read_volume(tmp_path / "nodes.nii.gz").GetSize()
    values = sitk.GetArrayFromImage(entropy)
    assert values.max() == pytest.approx(0.6365, abs=1e-4) and values.min() > -2e-5
    facts = read_json(tmp_path / "nodes.json")
    assert len(facts["checkpoints"]) == 3 and all(node["disputed"] == 1 for node in facts["components"])
    out = tmp_path / "scored"
    assert test.main([*folders, "--device", "cpu", "--no-mirror", "--ensemble", str(model), "--output-dir",
                      str(out)]) == 0
    rates = read_json(out / "summary.json")["error_rates"]
    assert {row["votes"] for row in rates} == {"3", "2+1"} and (out / "error_rate.png").exists()
    assert read_json(out / "summary.json")["calibration"][0]["cases"] == 1
    with pytest.raises(InputError, match="has learnt from "):
        test.main([*folders, "--device", "cpu", "--ensemble", str(model), "--split", "valid", "--fold", "1"])
    with pytest.raises(InputError, match="no fold_.*checkpoint_final.pth in it"):
        test.main([*folders, "--ensemble", str(tmp_path)])


def test_the_operating_point_is_the_cut_and_smallest_component_it_holds(model, raw, folders, tmp_path):
    checkpoint, point = model / "fold_0" / "checkpoint_final.pth", tmp_path / "operating_point.json"
    options = [*folders, "--checkpoint", str(checkpoint), "--device", "cpu", "--no-mirror", "--output-dir",
               str(tmp_path)]
    assert test.main([*options, "--sweep"]) == 0
    swept = read_table(tmp_path / "sweep.csv", ["cut", "smallest"])
    wanted = next(row for row in swept if (row["cut"], row["smallest"]) == ("0.45", "0.1"))
    write_json(point, {"method": "RetroLN-nnUNet", "settings": {"threshold": 0.45, "smallest_ml": 0.1}})
    assert test.main([*options, "--operating-point", str(point)]) == 0
    row = read_table(tmp_path / "cases.csv", [])[0]
    assert float(wanted["prediction"]) == pytest.approx(float(row["prediction_ml"]))
    assert (wanted["found"], wanted["false_positives"]) == (row["nodes_found"], row["false_positives"])
    predict.main(["--input", str(raw / "CT" / "P4_0000.nii.gz"), "--vertebrae", str(raw / "vertebrae" / "P4"),
                  "--output", str(tmp_path / "nodes.nii.gz"), "--device", "cpu", "--no-mirror", "--checkpoint",
                  str(checkpoint), "--operating-point", str(point)])
    assert read_json(tmp_path / "nodes.json")["volume_ml"] == pytest.approx(float(row["prediction_ml"]), abs=1e-6)
    with pytest.raises(InputError, match="masks have no probability to cut"):
        test.main([*options, "--predictions-dir", str(tmp_path), "--operating-point", str(point)])
