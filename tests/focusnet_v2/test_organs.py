"""Organs as settings, cases in which not every organ was drawn, OpenKBP from its published files to a label map."""
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from focusnet_v2 import predict, test, train, train_backbone
from focusnet_v2.config import Config
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from focusnet_v2.losses import backbone_loss, merge_undrawn
from focusnet_v2.networks import SNet, leave_out
from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_data.openkbp import ORGANS
from shared_data.settings import build, config_from_dict
from shared_data.volume import read_volume
from tests.openkbp_layout import hu_of, write_case, write_cohort

ALPHA = Config().alpha
FIVE = {"organs": {"Mandible": 1, "Parotid_L": 2, "Parotid_R": 3, "BrainStem": 4, "Chiasm": 5}, "small": ["Chiasm"],
        "weights": {"Mandible": 1, "Parotid_L": 1, "Parotid_R": 1, "BrainStem": 2, "Chiasm": 4}}


@pytest.fixture
def batch():
    """(logits (2, 10, Z, Y, X), labels in which the classes 4 and 9 do not occur, presence with these two undrawn)."""
    torch.manual_seed(1)
    logits = torch.randn(2, 10, 4, 6, 6)
    labels = torch.randint(0, 9, (2, 1, 4, 6, 6))
    labels[labels == 4] = 0
    presence = torch.ones(2, 10)
    presence[:, [4, 9]] = 0
    return logits, labels, presence


def test_where_every_organ_was_drawn_nothing_changes(batch):
    logits, labels, _ = batch
    every = torch.ones(2, 10)
    before, after = (backbone_loss(x, labels, ALPHA, every) for x in (logits, merge_undrawn(logits, every)))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_undrawn_organ_teaches_nothing(batch):
    """Neither that it is background, nor that background is it: only their sum counts."""
    logits, labels, presence = batch
    two_thirds = logits.clone()
    two_thirds[:, 4] = logits[:, [0, 4]].logsumexp(1) + np.log(2 / 3)
    two_thirds[:, 0] = logits[:, [0, 4]].logsumexp(1) + np.log(1 / 3)
    losses = [sum(backbone_loss(merge_undrawn(x, presence), labels, ALPHA, presence).values())
              for x in (logits, two_thirds)]
    assert torch.allclose(*losses, rtol=1e-5)
    background = (labels == 0).expand(-1, 10, -1, -1, -1)
    merged = merge_undrawn(logits.requires_grad_(), presence)
    assert torch.allclose(merged.softmax(1)[:, 0], logits.softmax(1)[:, [0, 4, 9]].sum(1), atol=1e-6)
    sum(backbone_loss(merged, labels, ALPHA, presence).values()).backward()
    assert (logits.grad[:, 0][background[:, 0]] < 0).all()  # background is taught all the same


def test_a_class_left_out_never_comes_out():
    torch.manual_seed(0)
    network, labels = SNet(4, 8), torch.zeros(1, 1, 4, 8, 8, dtype=torch.long)
    leave_out(network.head, [2])
    optimizer = train_backbone.sgd(network.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(backbone_loss(network(torch.randn(1, 1, 4, 8, 8)), labels, None).values()).backward()
        optimizer.step()
    assert (network(torch.randn(1, 1, 4, 8, 8)).softmax(1)[:, 2] == 0).all()


@pytest.fixture(scope="module")
def openkbp(tmp_path_factory):
    """(prepared folder, run folder) of a cohort in OpenKBP's layout, its main network trained for two epochs."""
    folder = tmp_path_factory.mktemp("openkbp")
    prepared, patch = ["--prepared-dir", str(folder / "prepared")], ["--patch-zyx", "8", "32", "32"]
    assert data_preprocess.main([*prepared, "--layout", "openkbp", "--data-dir", str(write_cohort(folder / "open-kbp")),
                                 "--spacing-xyz", "4.5", "4", "3", "--workers", "0"]) == 0
    assert crop_data.main([*prepared, *patch, "--crop-side", "32", "--workers", "0"]) == 0
    train.main([*prepared, *patch, "--run-dir", str(folder / "run"), "--min-slices", "12", "--box-zyx", "8", "16", "16",
                "--window-step", "8", "--width", "8", "--backbone-epochs", "2", "--device", "cpu"])
    return folder / "prepared", folder / "run"


def test_openkbp_is_prepared_in_its_own_split(openkbp, tmp_path):
    prepared, _ = openkbp
    rows = read_table(prepared / "cases.csv", ["case", "part"])
    assert [(row["case"], row["part"]) for row in rows] == [("pt_1", "train"), ("pt_2", "train"), ("pt_3", "valid"),
                                                           ("pt_4", "test")]
    presence = {row["case"]: row for row in read_table(prepared / "presence.csv", ["case", "background", *ORGANS])}
    assert [presence["pt_1"][name] for name in ORGANS] == ["1", "0", "1", "1", "0", "0", "1"]
    assert presence["pt_2"]["Mandible"] == "0" and set(presence) == {"pt_1", "pt_2", "pt_3"}
    facts = read_json(prepared / "resampled" / "pt_1" / "case.json")
    assert facts["notes"] == ["SpinalCord: 50% inside the dose mask, not drawn"]
    hu = sitk.GetArrayFromImage(read_volume(prepared / "resampled" / "pt_1" / "image.nrrd"))
    grey, inside = write_case(tmp_path / "pt_1", seed=1)
    assert np.array_equal(hu, hu_of(grey, inside))  # on its own grid nothing is changed, outside the mask all is air
    box = read_volume(prepared / "cropped" / "pt_1" / "image.nrrd").GetSize()
    assert box[0] < 80 and box[1] < 90 and box[2] == 128  # the head, all slices: no optic nerve to go by


def test_openkbp_goes_from_training_to_a_label_map(openkbp, tmp_path):
    prepared, run = openkbp
    assert {path.name for path in run.iterdir()} == {"backbone"}  # no small organ: nothing to locate
    test.main(["--run-dir", str(run), "--device", "cpu"])
    organs = read_table(run / "test" / "organs.csv", ["case", "organ", "reference", "dice"])
    assert [row["organ"] for row in organs] == list(ORGANS) and {row["case"] for row in organs} == {"pt_4"}
    assert [row["organ"] for row in organs if row["reference"] == "yes"] == ["BrainStem", "Parotid_R", "Parotid_L",
                                                                           "Mandible"]
    ct = prepared / "resampled" / "pt_4" / "image.nrrd"
    predict.main(["--input", str(ct), "--output", str(tmp_path / "labels.nii.gz"), "--checkpoint",
                  str(run / "backbone" / "best.pt"), "--device", "cpu"])
    listed = json.loads((tmp_path / "labels.json").read_text())["organs"]
    assert [(row["label"], row["organ"]) for row in listed] == list(enumerate(ORGANS, 1))
    human = {row["organ"]: row["human_dice"] for row in read_json(run / "test" / "summary.json")["organs"]}
    assert human["SpinalCord"] > 0.7 and human["Parotid_L"] > 0.8 and human["Larynx"] is None
    state = torch.load(run / "backbone" / "best.pt", weights_only=True)["model"]
    assert state["head.bias"].shape == (8,)
    assert (state["head.bias"][[2, 5, 6]] < -9e3).all() and (state["head.bias"][[0, 1, 3, 4, 7]] > -10).all()


def test_a_patch_larger_than_what_was_cropped_is_one_line(openkbp, tmp_path):
    with pytest.raises(InputError, match="smaller than --patch-zyx. Run crop_data.py with the same"):
        train_backbone.main(["--prepared-dir", str(openkbp[0]), "--patch-zyx", "20", "128", "128", "--run-dir",
                             str(tmp_path)])


def test_the_rule_of_before_is_an_option(openkbp, tmp_path):
    prepared, _ = openkbp
    train_backbone.main(["--prepared-dir", str(prepared), "--patch-zyx", "8", "32", "32", "--min-slices", "12",
                         "--window-step", "8", "--width", "8", "--backbone-epochs", "1", "--backbone-warmup", "0",
                         "--undrawn", "original", "--device", "cpu", "--run-dir", str(tmp_path)])
    state = torch.load(tmp_path / "backbone" / "best.pt", weights_only=True)
    assert (state["model"]["head.bias"] > -10).all() and state["config"]["undrawn"] == "original"


@pytest.fixture(scope="module")
def five(raw, prepare, tmp_path_factory):
    """(options, run folder) of a user's own five organs, the whole chain."""
    folder = tmp_path_factory.mktemp("five organs")
    (folder / "organs.json").write_text(json.dumps(FIVE))
    table = ["--label-table", str(folder / "organs.json")]
    assert prepare(raw, folder / "prepared", *table) == 0
    return folder


def test_five_organs_of_ones_own_need_no_code(five, training, raw, tmp_path):
    options = [*training, "--prepared-dir", str(five / "prepared"), "--run-dir", str(five / "run")]
    train.main(options)  # organs, small ones and weights as prepared
    kept = read_json(five / "run" / "adversarial" / "config.json")
    assert kept["organs"] == list(FIVE["organs"]) and kept["small"] == ["Chiasm"]
    assert kept["alpha"] == [0.5, 1, 1, 1, 2, 4]
    test.main(["--run-dir", str(five / "run"), "--device", "cpu"])
    rows = read_table(five / "run" / "test" / "organs.csv", ["organ"])
    assert [row["organ"] for row in rows] == list(FIVE["organs"])
    small = read_table(five / "run" / "test" / "small_organs.csv", ["organ"])
    assert [row["organ"] for row in small] == ["Chiasm"]
    predict.main(["--input", str(raw / "P1" / "img.nrrd"), "--output", str(tmp_path / "labels.nrrd"), "--checkpoint",
                  str(five / "run" / "adversarial" / "best.pt"), "--device", "cpu"])
    listed = json.loads((tmp_path / "labels.json").read_text())["organs"]
    assert [row["organ"] for row in listed] == list(FIVE["organs"]) and "peak" in listed[4]


def test_a_checkpoint_of_another_table_is_refused(five, run_dir, training, of_stage):
    training = of_stage(train_backbone.Backbone, training)
    with pytest.raises(InputError, match="config.json: made with the organs Mandible, .*; the network's are BrainStem"):
        test.main(["--run-dir", str(run_dir), "--prepared-dir", str(five / "prepared"), "--device", "cpu"])
    with pytest.raises(InputError, match="unknown option --organs .a setting of data_preprocess.py."):
        train_backbone.main([*training, "--prepared-dir", str(five / "prepared"), "--organs", "BrainStem", "--run-dir",
                             str(five / "other")])
    with pytest.raises(InputError, match="organs BrainStem .* .now Mandible"):
        train_backbone.main([*training, "--prepared-dir", str(five / "prepared"), "--run-dir", str(run_dir),
                             "--resume"])


def test_settings_of_before_keep_their_meaning():
    assert config_from_dict(Config, {"alpha": [0.5, 1, 8, 1, 8, 8, 1, 1, 2, 2], "width": 32}, "x") == Config()
    assert Config().small_labels == (2, 4, 5) and Config().n_classes == 10
    assert Config(organs=("A", "B"), small=("B",)).alpha == (0.5, 1, 8)


@pytest.mark.parametrize("options, message", [
    (["--organs", "A", "B", "A"], "--organs: A stands there twice"),
    (["--organs", "A", "--small", "B"], "--small B: not among the organs A"),
    (["--organs", "A", "B", "--alpha", "1", "1"], "must be 3 numbers: background, A, B")])
def test_impossible_organs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(Config, data_preprocess.given_settings(options, ""))
