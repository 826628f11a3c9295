"""Folds give their mean, a map of where they disagree, and one report."""
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from focusnet_v2 import predict, test
from focusnet_v2.config import Config
from focusnet_v2.inference import fuse, predict_members, predict_volume
from focusnet_v2.members import find_folds, load_members
from shared_data.errors import InputError
from shared_data.files import read_json, read_table


@pytest.fixture(scope="module")
def runs(run_dir, tmp_path_factory):
    """Two folds, the second with another last layer."""
    folder = tmp_path_factory.mktemp("folds")
    for number in (1, 2):
        shutil.copytree(run_dir, folder / f"fold{number}")
    path = folder / "fold2" / "adversarial" / "best.pt"
    state = torch.load(path, weights_only=True)
    name = next(key for key in state["model"] if key.endswith("head.bias"))
    state["model"][name] = state["model"][name].flip(0)
    torch.save(state, path)
    return folder


def test_the_maps_are_means_and_small_organs_follow_most_members(runs):
    options = predict.Options(input="", output="", device="cpu", engine="torch", checkpoint=tuple(find_folds(runs)))
    networks, config, stage, device = load_members(options, {"heatmap_threshold": 0.0})
    assert stage == "adversarial"
    hu = np.random.default_rng(0).integers(-200, 300, (14, 40, 40)).astype(np.int16)
    each = [predict_volume(network, hu, config, device) for network in networks]
    together, votes = predict_members(networks, hu, config, device)
    for name in ("probability", "heatmap", "small"):
        assert np.allclose(together[name], np.mean([one[name] for one in each], axis=0), atol=1e-6), name
    assert together["counted"].all() and together["start"] == each[0]["start"]
    assert np.array_equal(votes, [fuse(one, config)[1] for one in each])
    alone, none = predict_members(networks[:1], hu, config, device)
    assert none is None and np.array_equal(alone["probability"], each[0]["probability"])
    none_counts = replace(config, heatmap_threshold=0.999)
    assert not predict_members(networks, hu, none_counts, device)[0]["counted"].any()


def test_folds_predict_and_score_together(runs, raw, prepared, tmp_path):
    predict.main(["--input", str(raw / "P5" / "img.nrrd"), "--output", str(tmp_path / "labels.nrrd"), "--device", "cpu",
                  "--ensemble", str(runs)])
    facts = read_json(tmp_path / "labels.json")
    labels, entropy = (sitk.ReadImage(str(tmp_path / f"{name}.nrrd")) for name in ("labels", "labels_uncertainty"))
    assert entropy.GetSize() == labels.GetSize() and entropy.GetOrigin() == labels.GetOrigin()
    labels, entropy = map(sitk.GetArrayFromImage, (labels, entropy))
    assert len(facts["checkpoints"]) == 2 and (entropy > 0.69).any()
    for row in facts["organs"]:
        inside = entropy[labels == row["label"]]
        assert row["disagreement"] == (pytest.approx(inside.mean(), abs=1e-4) if inside.size else None)
    assert test.main(["--ensemble", str(runs), "--prepared-dir", str(prepared), "--device", "cpu", "--sweep",
                      "--smallest-ml", "0.5"]) == 0
    swept = read_table(runs / "ensemble" / "test" / "sweep.csv", ["organ", "smallest", "prediction"])
    for row in read_table(runs / "ensemble" / "test" / "organs.csv", []):
        if row["reference"] == "yes":
            mine = {one["smallest"]: float(one["prediction"]) for one in swept
                    if (one["case"], one["organ"]) == (row["case"], row["organ"])}
            assert mine["0.5"] == pytest.approx(float(row["prediction_ml"])) and mine["0.5"] <= mine[""]
    calibration = read_json(runs / "ensemble" / "test" / "summary.json")["calibration"]
    assert calibration[0]["structure"] == "all" and (runs / "ensemble" / "test" / "calibration.png").exists()
    out = runs / "ensemble" / "test"
    assert len(read_table(out / "organs.csv", ["disagreement"])) == len(Config().organs)
    assert {row["votes"] for row in read_json(out / "summary.json")["error_rates"]} == {"2", "1+1"}


def test_folds_at_different_stages_are_refused(runs, raw, tmp_path):
    with pytest.raises(InputError, match="of stage SOL, .* of adversarial. Ensembles need the same"):
        predict.main(["--input", str(raw / "P5" / "img.nrrd"), "--output", str(tmp_path / "m.nrrd"), "--checkpoint",
                      str(runs / "fold1" / "adversarial" / "best.pt"), str(runs / "fold2" / "SOL" / "best.pt")])
