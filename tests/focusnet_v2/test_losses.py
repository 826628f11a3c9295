"""Losses against the authors' numbers (golden values)."""
import json

import numpy as np
import pytest
import torch

from focusnet_v2.losses import (
    adaptive_dice_loss,
    backbone_loss,
    binary_adaptive_dice_loss,
    binary_focal_loss,
    critic_loss,
    focal_loss,
    heatmap_loss,
    segmenter_loss,
)

ALPHA = (0.5, 1, 8, 1, 8, 8, 1, 1, 2, 2)


@pytest.fixture
def case(golden):
    arrays = {name: torch.from_numpy(array) for name, array in np.load(golden / "losses_focusnet.npz").items()}
    for name in ("logits", "pred_small"):
        arrays[name].requires_grad_()
    return arrays, json.loads((golden / "losses_focusnet.json").read_text())["losses"]


def check(value, expected, *inputs):
    value.backward()
    assert value.item() == pytest.approx(expected["value"], rel=1e-5)
    norm = torch.cat([tensor.grad.flatten() for tensor in inputs]).norm().item()
    assert norm == pytest.approx(expected["grad_l2"], rel=1e-4)


@pytest.mark.parametrize("name, loss", [
    ("focal_weighted", lambda x, y, w: focal_loss(x, y, ALPHA, w)),
    ("focal_unweighted", lambda x, y, w: focal_loss(x, y, ALPHA)),
    ("focal_alpha_none", lambda x, y, w: focal_loss(x, y, None)),
    ("dice_weighted", adaptive_dice_loss),
    ("dice_unweighted", lambda x, y, w: adaptive_dice_loss(x, y)),
    ("backbone_total_weighted_rlt0.2", lambda x, y, w: sum(backbone_loss(x, y, ALPHA, w).values()))])
def test_losses_of_the_main_network_equal_the_authors(case, name, loss):
    arrays, expected = case
    check(loss(arrays["logits"], arrays["labels"], arrays["presence_weight"]), expected[name], arrays["logits"])


@pytest.mark.parametrize("name, loss", [
    ("binary_focal_alpha0.5", lambda x, y: binary_focal_loss(x, y, 0.5)),
    ("binary_focal_alpha0.8_gamma2_sum", lambda x, y: binary_focal_loss(x, y, 0.8) * x.numel()),
    ("binary_dice", binary_adaptive_dice_loss),
    ("generator_seg", lambda x, y: sum(segmenter_loss(x, y).values()))])
def test_losses_of_the_branches_equal_the_authors(case, name, loss):
    arrays, expected = case
    check(loss(arrays["pred_small"], arrays["true_small"]), expected[name], arrays["pred_small"])


def test_adversarial_terms_equal_the_authors(case):
    arrays, expected = case
    names = ("recon", "code", "feat0", "feat1")
    of = {side: [arrays[f"{name}_{side}"].requires_grad_() for name in names] for side in ("pred", "true")}
    prediction, truth = arrays["pred_small"], arrays["true_small"]
    terms = critic_loss(prediction, truth, of["pred"], of["true"])
    everything = [prediction, *of["pred"], *of["true"]]
    for term, name in (("reconstruction", "discriminator_recon"), ("distance", "discriminator_distance")):
        for tensor in everything:
            tensor.grad = torch.zeros_like(tensor)
        check(terms[term], expected[name], *everything)
    for tensor in everything:
        tensor.grad = torch.zeros_like(tensor)
    terms = segmenter_loss(prediction, truth, of["pred"], of["true"])
    shape = sum(value for name, value in terms.items() if name not in ("focal", "dice"))
    check(shape, expected["generator_shape"], *everything)
    assert prediction.grad.norm().item() == pytest.approx(expected["generator_shape"]["grad_l2_pred"], rel=1e-4)
    lighter = segmenter_loss(prediction, truth, of["pred"], of["true"], code_weight=0.5)
    assert {name: (value / lighter[name]).item() for name, value in terms.items() if lighter[name] != value} == {
        "code": pytest.approx(10)}


def test_presence_works_for_any_batch_and_hides_what_is_not_contoured(case):
    arrays, _ = case
    logits, labels = arrays["logits"].detach(), arrays["labels"]
    other = torch.randn_like(logits)
    weight = torch.cat([torch.ones(1, 10), torch.zeros(1, 10)])
    both = torch.cat([logits, other])
    twice = torch.cat([labels, labels])
    assert torch.allclose(adaptive_dice_loss(both, twice, weight), adaptive_dice_loss(logits, labels))
    assert torch.allclose(focal_loss(both, twice, ALPHA, weight), focal_loss(logits, labels, ALPHA) / 2)
    assert adaptive_dice_loss(both, twice, weight * 0) == 0 and focal_loss(both, twice, ALPHA, weight * 0) == 0


def test_missing_organs_do_not_count_in_the_heatmap_loss():
    heatmap, target = torch.rand(2, 3, 2, 4, 4), torch.zeros(2, 3, 2, 4, 4)
    presence = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    assert torch.allclose(heatmap_loss(heatmap, target, presence), heatmap[0, 0].square().mean())
    assert heatmap_loss(heatmap, target, presence * 0) == 0


def test_textbook_background_term():
    logits, target = torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    assert binary_focal_loss(logits, target, textbook=True).item() == pytest.approx(0.5 * 0.25 * np.log(2))
    assert binary_focal_loss(logits, target).item() == pytest.approx(0.5 * 0.25 * np.log(1 + np.exp(-1)))


def test_losses_are_finite_on_sure_answers():
    logits = (200 * torch.randn(1, 10, 4, 8, 8)).requires_grad_()
    labels = torch.randint(0, 10, (1, 4, 8, 8))
    sum(backbone_loss(logits, labels, ALPHA).values()).backward()
    small = (300 * torch.randn(1, 1, 4, 8, 8)).requires_grad_()
    sum(segmenter_loss(small, labels[:, None] > 5).values()).backward()
    assert logits.grad.isfinite().all() and small.grad.isfinite().all()
