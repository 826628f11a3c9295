"""Organs as settings, cases in which not every organ was drawn, OpenKBP from its published files to a label map."""
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from sepnet import predict, preprocess, test, train
from sepnet.config import CONTROL_POINTS, STRUCTSEG, Config, given_settings
from sepnet.dataset import load_case
from sepnet.losses import AttentionExpDiceLoss, PartlyDrawnLoss, build_loss, merge_undrawn
from sepnet.networks import SepNet, leave_out
from sepnet.volumes import transformed
from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_data.openkbp import AIR_HU, ORGANS
from shared_data.settings import build
from shared_data.volume import read_volume
from tests.openkbp_layout import hu_of, write_case, write_cohort

FIVE = {"organs": {"stem": 1, "eye left": 2, "eye right": 3, "lens left": 4, "lens right": 5},
        "weights": {"stem": 2, "eye left": 1, "eye right": 1, "lens left": 1, "lens right": 1}}


@pytest.fixture
def batch():
    """(probabilities (2, 5, Z, Y, X), labels without class 3, flags with class 3 undrawn)."""
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (2, 4, 6, 6))
    labels[labels == 3] = 0
    return torch.randn(2, 5, 4, 6, 6).softmax(1), labels, torch.tensor([[1.0, 1, 1, 0, 1]] * 2)


def test_where_every_organ_was_drawn_the_published_loss_is_part_of_ours(batch):
    probabilities, labels, _ = batch
    published = AttentionExpDiceLoss(5)(probabilities, labels)
    ours = PartlyDrawnLoss(AttentionExpDiceLoss(5))
    everything = ours(probabilities, labels, torch.ones(2, 5))
    assert torch.equal(everything, ours(probabilities, labels)) and everything > published
    assert torch.equal(build_loss(Config(n_classes=5, undrawn="original"))(probabilities, labels), published)


def test_an_undrawn_organ_teaches_nothing_and_the_background_is_taught(batch):
    probabilities, labels, drawn = batch
    moved = probabilities.clone()
    moved[:, 3], moved[:, 0] = probabilities[:, 3] / 2, probabilities[:, 0] + probabilities[:, 3] / 2
    loss = build_loss(Config(n_classes=5))
    assert torch.allclose(loss(probabilities, labels, drawn), loss(moved, labels, drawn), rtol=1e-6)
    assert torch.allclose(merge_undrawn(probabilities, drawn).sum(1), torch.ones(2, 4, 6, 6))
    filled = torch.zeros(1, 5, 2, 2, 2)
    filled[:, 1] = 1  # the fault of before: an organ takes all the air, which the published loss hardly minds
    right = filled[:, [1, 0, 2, 3, 4]]
    air, every = torch.zeros(1, 2, 2, 2, dtype=torch.long), torch.ones(1, 5)
    assert loss(filled, air, every) > loss(right, air, every) + 10


def test_a_class_left_out_never_comes_out():
    torch.manual_seed(0)
    network = SepNet(4, 2)
    leave_out(network, [2])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2, weight_decay=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        build_loss(Config(n_classes=4))(network(torch.randn(1, 1, 16, 16, 16)),
                                        torch.zeros(1, 16, 16, 16, dtype=torch.long)).backward()
        optimizer.step()
    assert (network(torch.randn(1, 1, 16, 16, 16))[:, 2] == 0).all()


@pytest.fixture(scope="module")
def openkbp(tmp_path_factory):
    """(prepared folder, run folder) of a cohort in OpenKBP's layout, trained for an epoch."""
    folder = tmp_path_factory.mktemp("openkbp")
    common = ["--prepared-dir", str(folder / "prepared"), "--workers", "0"]
    assert preprocess.main([*common, "--layout", "openkbp", "--data-dir", str(write_cohort(folder / "open-kbp")),
                            "--crop-size", "96"]) == 0
    train.main([*common, "--run-dir", str(folder / "run"), "--patch-zyx", "16", "16", "16", "--batch-size", "2",
                "--base-channels", "2", "--epochs", "1", "--steps-per-epoch", "3", "--device", "cpu"])
    return folder / "prepared", folder / "run"


def test_openkbp_is_prepared_in_its_own_split(openkbp, tmp_path):
    prepared, _ = openkbp
    rows = read_table(prepared / "cases.csv", ["case", "part", "labels", "note"])
    assert [(row["case"], row["part"], row["labels"]) for row in rows] == [
        ("pt_1", "train", "1 3 4 7"), ("pt_2", "train", "1 3 4"), ("pt_3", "valid", "1 3 4 7"),
        ("pt_4", "test", "1 3 4 7")]
    assert rows[0]["note"] == "SpinalCord: 50% inside the dose mask, not drawn"
    grey, inside = write_case(tmp_path / "pt_1", seed=1)
    hu = hu_of(grey, inside)[:, 16:112, 16:112]
    image = load_case(prepared / "train" / "pt_1", "multi_thresh_1")["image"]
    assert np.array_equal(image, transformed(hu, CONTROL_POINTS["multi_thresh_1"]))
    outside = ~inside.transpose(2, 0, 1)[::-1][:, 16:112, 16:112]
    assert (image[outside] == transformed(AIR_HU, CONTROL_POINTS["multi_thresh_1"])).all()


def test_openkbp_goes_from_training_to_a_label_map(openkbp, tmp_path):
    prepared, run = openkbp
    test.main(["--run-dir", str(run), "--split", "test", "--window-step", "16", "--device", "cpu"])
    rows = read_table(run / "test" / "organs.csv", ["case", "organ", "reference_ml", "dice"])
    assert [row["organ"] for row in rows] == list(ORGANS) and {row["case"] for row in rows} == {"pt_4"}
    undrawn = [row for row in rows if float(row["reference_ml"]) == 0]
    assert [row["organ"] for row in undrawn] == ["SpinalCord", "Esophagus", "Larynx"]
    assert {row["dice"] for row in undrawn} == {"nan"}
    reference = read_volume(prepared / "test" / "pt_4" / "reference.nii.gz")
    hu = sitk.GetImageFromArray(hu_of(*write_case(tmp_path / "pt_4", seed=4)).astype(np.int16))
    hu.CopyInformation(reference)
    sitk.WriteImage(hu, str(tmp_path / "ct.nii.gz"))
    predict.main(["--input", str(tmp_path / "ct.nii.gz"), "--output", str(tmp_path / "labels.nii.gz"), "--checkpoint",
                  str(run / "best.pt"), "--window-step", "16", "--device", "cpu"])
    listed = json.loads((tmp_path / "labels.json").read_text())["organs"]
    assert [(row["label"], row["organ"]) for row in listed] == list(enumerate(ORGANS, 1))
    bias = torch.load(run / "best.pt", weights_only=True)["model"]["classify.2.bias"]
    assert (bias[[2, 5, 6]] < -9e3).all() and (bias[[0, 1, 3, 4, 7]] > -10).all()


def test_five_organs_of_ones_own_need_no_code(raw, tmp_path):
    for patient in raw.iterdir():
        labels = sitk.ReadImage(str(patient / "label.nii.gz"))
        (tmp_path / "raw" / patient.name).mkdir(parents=True)
        (tmp_path / "raw" / patient.name / "data.nii.gz").symlink_to(patient / "data.nii.gz")
        sitk.WriteImage(labels * sitk.Cast(labels < 6, labels.GetPixelID()),
                        str(tmp_path / "raw" / patient.name / "label.nii.gz"))
    (tmp_path / "organs.json").write_text(json.dumps(FIVE))
    common = ["--prepared-dir", str(tmp_path / "prepared"), "--workers", "0"]
    assert preprocess.main([*common, "--data-dir", str(tmp_path / "raw"), "--crop-size", "48", "--label-table",
                            str(tmp_path / "organs.json")]) == 0
    assert "lr" not in read_json(tmp_path / "prepared" / "config.json")
    train.main([*common, "--run-dir", str(tmp_path / "run"), "--patch-zyx", "16", "16", "16", "--batch-size", "2",
                "--base-channels", "2", "--epochs", "1", "--steps-per-epoch", "2", "--device", "cpu"])
    config = read_json(tmp_path / "run" / "config.json")
    assert config["organs"] == list(FIVE["organs"]) and config["n_classes"] == 6
    assert config["weights"] == [2, 1, 1, 1, 1]
    test.main(["--run-dir", str(tmp_path / "run"), "--window-step", "16", "--device", "cpu"])
    weights = ["--weights", "1", "1", "1", "1", "5"]
    assert train.read_settings(train.given_settings([*common, *weights, "--run-dir", str(tmp_path / "other")], "",
                                                    train.Options)).weights == (1, 1, 1, 1, 5)
    organs = read_json(tmp_path / "run" / "valid" / "summary.json")["organs"]
    assert [row["organ"] for row in organs] == list(FIVE["organs"])


def test_a_checkpoint_of_another_table_is_refused(openkbp, runs):
    prepared, _ = openkbp
    with pytest.raises(InputError, match="config.json: made with the organs BrainStem, .* network's are brain stem"):
        test.main(["--run-dir", str(runs / "one"), "--prepared-dir", str(prepared), "--device", "cpu"])


@pytest.mark.parametrize("options, message", [
    (["--organs", "A", "B", "A"], "--organs: A stands there twice"),
    (["--organs", "A", "B", "--n-classes", "5"], "--n-classes 5 does not fit the 2 organs"),
    (["--organs", "A", "B", "--weights", "1"], "must be 2 numbers: A, B")])
def test_impossible_organs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(Config, given_settings(options, ""))


def test_settings_of_before_keep_their_meaning():
    assert Config().organs == STRUCTSEG["organs"] and Config().n_classes == 23
    assert Config().weights == STRUCTSEG["weights"]
    assert Config(n_classes=5).organs == STRUCTSEG["organs"][:4] and Config(n_classes=25).classes[24] == "label 24"
    assert Config(n_classes=25).weights[22:] == (0, 0) and Config(organs=("A", "B")).weights == (1, 1)
