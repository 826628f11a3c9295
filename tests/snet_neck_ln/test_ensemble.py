"""Several networks give their mean probability, and a map of where they disagree."""
import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.special import expit

from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json
from shared_data.volume import geometry
from snet_neck_ln import predict, test
from snet_neck_ln.checkpoint import load_network
from snet_neck_ln.config import Config
from snet_neck_ln.dataset import read_slice
from snet_neck_ln.inference import logit, predict_logits, predict_members, ready, views_of
from snet_neck_ln.members import load_members


@pytest.fixture(scope="module")
def runs(run_dir, prepared, tmp_path_factory):
    """Three folds that call a quarter, half and three quarters of a patient node, at 0.3."""
    folder = tmp_path_factory.mktemp("folds")
    state = torch.load(run_dir / "last.pt", weights_only=True)
    network, config = load_network(run_dir / "last.pt")
    config = replace(config, precision="32-true")
    stored = np.stack([read_slice(prepared / "P5" / "files" / f"{k}.npz")[0] for k in range(5)])
    logits = predict_logits(ready(network, "torch", config, torch.device("cpu")), stored, config, torch.device("cpu"))
    for number, share in enumerate((0.25, 0.5, 0.75), 1):
        (folder / f"fold{number}").mkdir()
        shift = logit(0.3) - np.quantile(logits, 1 - share)
        model = {**state["model"], "head.bias": state["model"]["head.bias"] + shift}
        torch.save({**state, "model": model}, folder / f"fold{number}" / "best.pt")
    return folder


def arguments(raw, tmp_path, *more):
    return ["--input", str(raw / "P4" / "IM0001.nrrd"), "--output", str(tmp_path / "mask.nii.gz"), "--device", "cpu",
            "--threshold", "0.3", *more]


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_members_give_their_mean_probability_and_their_votes(runs, engine):
    options = predict.Options(input="", output="", device="cpu", engine=engine, threshold=0.3,
                              checkpoint=tuple(sorted(runs.glob("*/best.pt"))))
    networks, config, device = load_members(options, {"threshold": 0.3})
    stored = np.random.default_rng(0).integers(0, 65536, (3, 32, 32)).astype(np.uint16)
    member_logits = [predict_logits(network, stored, config, device) for network in networks]
    logits, votes = predict_members(networks, stored, config, device)
    assert np.allclose(expit(logits), np.mean([expit(one) for one in member_logits], axis=0), atol=1e-5)
    assert np.array_equal(votes, [one > logit(0.3) for one in member_logits])
    alone, none = predict_members(networks[:1], stored, config, device)
    assert none is None and np.array_equal(alone, member_logits[0])


def test_disagreement_lies_beside_the_mask_and_in_the_json(runs, raw, tmp_path):
    predict.main(arguments(raw, tmp_path, "--ensemble", str(runs)))
    mask, entropy, ct = (sitk.ReadImage(str(path)) for path in (
        tmp_path / "mask.nii.gz", tmp_path / "mask_uncertainty.nii.gz", raw / "P4" / "IM0001.nrrd"))
    for image in (mask, entropy):
        assert all(np.allclose(geometry(image)[key], value, atol=1e-4) for key, value in geometry(ct).items())
    inside = sitk.GetArrayFromImage(entropy)[sitk.GetArrayFromImage(mask) > 0]
    assert set(inside.astype(float).round(2)) <= {0.0, 0.64} and 0 < (inside > 0).sum() < inside.size
    facts = json.loads((tmp_path / "mask.json").read_text())
    assert len(facts["checkpoints"]) == 3 and "checkpoint" not in facts
    weights = [node["volume_ml"] for node in facts["components"]]
    for name, expected in (("disagreement", inside.mean()), ("disputed", (inside > 0).mean())):
        assert np.average([node[name] for node in facts["components"]], weights=weights) == pytest.approx(
            expected, abs=1e-4)
    checkpoints = [str(path) for path in sorted(runs.glob("*/best.pt"))]
    predict.main([*arguments(raw, tmp_path / "again"), "--checkpoint", *checkpoints])
    assert (tmp_path / "again" / "mask.nii.gz").read_bytes() == (tmp_path / "mask.nii.gz").read_bytes()
    with pytest.raises(InputError, match="--ensemble and --checkpoint: both name the networks"):
        predict.main([*arguments(raw, tmp_path, "--ensemble", str(runs)), "--checkpoint", checkpoints[0]])
    with pytest.raises(InputError, match=r"no fold\*/best.pt in it. Train the folds with crossval.py"):
        predict.main(arguments(raw, tmp_path, "--ensemble", str(tmp_path)))


def test_the_ensemble_is_scored_with_its_errors_by_vote(runs, prepared, tmp_path):
    assert test.main(["--ensemble", str(runs), "--threshold", "0.3", "--device", "cpu"]) == 0
    out = runs / "ensemble" / "test"
    assert [row["case"] for row in read_table(out / "cases.csv", [])] == ["P5"]
    rates = read_json(out / "summary.json")["error_rates"]
    assert {row["votes"] for row in rates} == {"3", "2+1"} and (out / "error_rate.png").exists()
    assert sum(row["voxels"] for row in rates) == 5 * 32 * 32 and "2+1" in (out / "report.html").read_text()
    assert (out / "predictions" / "P5_uncertainty.nii.gz").exists()
    with pytest.raises(InputError, match="fold1/best.pt: has learnt from P2"):
        test.main(["--ensemble", str(runs), "--split", "valid", "--val-fold", "2", "--device", "cpu"])


def test_members_that_see_other_things_are_refused(runs, raw, tmp_path):
    state = torch.load(runs / "fold1" / "best.pt", weights_only=True)
    torch.save({**state, "config": {**state["config"], "window_width_hu": 300.0}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="other.pt: window_width_hu 300.0 differs from .*best.pt's 400.0"):
        predict.main([*arguments(raw, tmp_path), "--checkpoint", str(runs / "fold1" / "best.pt"),
                      str(tmp_path / "other.pt")])


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_views_are_turned_back_and_averaged(runs, engine):
    options = predict.Options(input="", output="", device="cpu", engine=engine,
                              checkpoint=(runs / "fold1" / "best.pt",))
    ((plain,), config, device), ((averaged,), _, _) = (load_members(replace(options, tta=tta), {})
                                                       for tta in (False, True))
    stored = np.random.default_rng(0).integers(0, 65536, (3, 32, 32)).astype(np.uint16)
    each = []
    for flipped in (False, True):
        for quarters in range(4):
            copy = np.rot90(stored[:, ::-1] if flipped else stored, quarters, (1, 2))
            turned_back = np.rot90(expit(predict_logits(plain, copy, config, device)), -quarters, (1, 2))
            each.append(turned_back[:, ::-1] if flipped else turned_back)
    assert len({one.tobytes() for one in each}) == 8
    logits = predict_logits(averaged, stored, config, device)
    assert np.allclose(expit(logits), np.mean(each, axis=0), atol=1e-5)
    turned = predict_logits(averaged, np.rot90(stored, 1, (1, 2)), config, device)
    assert np.allclose(np.rot90(logits, 1, (1, 2)), turned, atol=1e-3)


def test_views_are_asked_for_and_only_those_of_training(runs, raw, tmp_path):
    predict.main(arguments(raw, tmp_path, "--ensemble", str(runs), "--tta"))
    assert json.loads((tmp_path / "mask.json").read_text())["tta"] is True
    state = torch.load(runs / "fold1" / "best.pt", weights_only=True)
    for name, views in (("rot90_probability", 2), ("flip_probability", 4)):
        assert len(views_of(Config(**{name: 0.0}))) == views
    torch.save({**state, "config": {**state["config"], "flip_probability": 0.0, "rot90_probability": 0.0}},
               tmp_path / "plain.pt")
    with pytest.raises(InputError, match="plain.pt: has learnt from no flipped or turned slices. Leave out --tta"):
        predict.main(arguments(raw, tmp_path, "--checkpoint", str(tmp_path / "plain.pt"), "--tta"))


def test_the_operating_point_is_the_cut_and_smallest_component_it_holds(runs, raw, prepared, tmp_path):
    checkpoint, point = str(runs / "fold2" / "best.pt"), tmp_path / "operating_point.json"

    def volumes(*options):
        predict.main(["--input", str(raw / "P4" / "IM0001.nrrd"), "--output", str(tmp_path / "mask.nii.gz"),
                      "--device", "cpu", "--checkpoint", checkpoint, *options])
        facts = read_json(tmp_path / "mask.json")
        assert facts["threshold"] == 0.3
        return [node["volume_ml"] for node in facts["components"]]

    largest = max(volumes("--threshold", "0.3"))
    assert max(volumes("--threshold", "0.3", "--smallest-ml", str(largest - 0.001))) == largest
    for smallest, found in ((largest + 0.001, False), (0.02, True)):
        write_json(point, {"method": "S-Net", "settings": {"threshold": 0.3, "smallest_ml": smallest}})
        assert bool(volumes("--operating-point", str(point))) == found
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--output-dir", str(tmp_path / "scored")]
    assert test.main([*options, "--operating-point", str(point), "--sweep", "--tta"]) == 0
    summary = read_json(tmp_path / "scored" / "summary.json")
    assert summary["threshold"] == 0.3 and summary["smallest_ml"] == 0.02 and summary["tta"] is True
    assert summary["calibration"][0]["cases"] == 1 and (tmp_path / "scored" / "calibration.png").exists()
    row = read_table(tmp_path / "scored" / "cases.csv", [])[0]
    swept = next(one for one in read_table(tmp_path / "scored" / "sweep.csv", [])
                 if (one["cut"], one["smallest"]) == ("0.3", "0.02"))
    assert float(swept["prediction"]) == pytest.approx(float(row["prediction_ml"]))
    assert (swept["found"], swept["false_positives"]) == (row["nodes_found"], row["false_positives"])
