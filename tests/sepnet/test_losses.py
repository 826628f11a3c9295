"""Losses against the authors' numbers (golden values)."""
import json

import numpy as np
import pytest
import torch

from sepnet.config import Config
from sepnet.losses import AttentionExpDiceLoss, ExpDiceLoss, FocalLoss, SoftDiceLoss, build_loss

NAMES = ("attention_exp_dice", "exp_dice", "soft_dice", "focal", "focal_dice")


@pytest.fixture
def case(golden):
    arrays = np.load(golden / "losses_sepnet.npz")
    expected = json.loads((golden / "losses_sepnet.json").read_text())["losses"]
    return torch.from_numpy(arrays["prob"]).requires_grad_(), torch.from_numpy(arrays["labels"]), expected


@pytest.mark.parametrize("name, loss", [
    ("attention_exp_dice_alpha0.5", AttentionExpDiceLoss(5, 0.5)),
    ("attention_exp_dice_alpha1", AttentionExpDiceLoss(5, 1)),
    ("exp_dice", ExpDiceLoss(5)), ("soft_dice", SoftDiceLoss(5))])
def test_losses_equal_the_authors(case, name, loss):
    probabilities, labels, expected = case
    value = loss(probabilities, labels)
    value.backward()
    assert value.item() == pytest.approx(expected[name]["value"], rel=1e-5)
    assert probabilities.grad.norm().item() == pytest.approx(expected[name]["grad_l2"], rel=1e-4)


@pytest.mark.parametrize("name, loss", [
    ("attention_exp_dice_alpha0.5", AttentionExpDiceLoss(5, 0.5, "paper")),
    ("attention_exp_dice_alpha1", AttentionExpDiceLoss(5, 1, "paper")), ("exp_dice", ExpDiceLoss(5, "paper"))])
def test_the_papers_normalisation_is_theirs_without_the_swap(case, name, loss):
    probabilities, labels, expected = case
    value = expected[name]["value_if_arguments_were_not_swapped"]
    assert loss(probabilities, labels).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_is_there_by_name_and_finite_at_probability_0(name):
    labels = torch.zeros(2, 4, 8, 8, dtype=torch.uint8)
    labels[:, 1:3, 2:6, 2:6] = 1
    labels[:, :1] = 2
    logits = torch.zeros(2, 4, 4, 8, 8)
    logits[:, 3] = 300  # softmax gives exact zeros
    logits.requires_grad_()
    loss = build_loss(Config(loss=name, n_classes=4))(logits.softmax(1), labels)
    loss.backward()
    perfect = torch.nn.functional.one_hot(labels.long(), 4).movedim(-1, 1).float()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert build_loss(Config(loss=name, n_classes=4))(perfect, labels) < loss


def test_focal_loss_without_focus_is_the_cross_entropy(case):
    probabilities, labels, _ = case
    cross_entropy = torch.nn.functional.nll_loss(probabilities.log(), labels.long())
    assert torch.allclose(FocalLoss(5, gamma=0)(probabilities, labels), cross_entropy)


def test_small_alpha_stresses_hard_voxels(case):
    probabilities, _, _ = case
    weights = [(probabilities * ((probabilities - 1) / alpha).exp()).detach() for alpha in (0.5, 1.0)]
    easy = probabilities > 0.6
    assert ((weights[0] / weights[1])[easy].min() > (weights[0] / weights[1])[~easy].max()).item()
