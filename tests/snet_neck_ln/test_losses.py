"""Losses and slice metrics against the authors' numbers (golden values)."""
import json
import math

import numpy as np
import pytest
import torch

from snet_neck_ln.inference import logit
from snet_neck_ln.losses import binary_focal_loss, edge_weight, snet_loss, structure_loss, tversky_loss
from snet_neck_ln.metrics import probability_correction, slice_dice_as_published, slice_scores


@pytest.fixture
def case(golden):
    arrays = np.load(golden / "losses_snet.npz")
    expected = json.loads((golden / "losses_snet.json").read_text())
    outputs = [torch.from_numpy(arrays[name]).requires_grad_() for name in ("out", "ra_out1", "ra_out2")]
    return arrays, outputs, torch.from_numpy(arrays["target"]), expected


def check(loss, logits, expected):
    loss.backward()
    gradient = math.sqrt(sum(float((part.grad ** 2).sum()) for part in logits if part.grad is not None))
    assert loss.item() == pytest.approx(expected["value"], rel=1e-5)
    assert gradient == pytest.approx(expected["grad_l2"], rel=1e-4)


@pytest.mark.parametrize("name, value", [
    ("binary_tversky_delta0.7", lambda o, t: tversky_loss(o[0], t)),
    ("binary_tversky_delta0.3", lambda o, t: tversky_loss(o[0], t, delta=0.3)),
    ("binary_focal_delta0.7_gamma3", lambda o, t: binary_focal_loss(o[0], t)),
    ("structure_wbce_ra_out1", lambda o, t: structure_loss(o[1], t)[0]),
    ("structure_wiou_ra_out1", lambda o, t: structure_loss(o[1], t)[1]),
    ("structure_wbce_ra_out2", lambda o, t: structure_loss(o[2], t)[0]),
    ("structure_wiou_ra_out2", lambda o, t: structure_loss(o[2], t)[1]),
    ("total_training_loss", lambda o, t: sum(snet_loss(o, t).values())),
])
def test_losses_equal_the_authors(case, name, value):
    _, outputs, target, expected = case
    check(value(outputs, target), outputs, expected["losses"][name])


def test_edge_weight_equals_the_authors(case):
    arrays, _, target, _ = case
    assert np.allclose(edge_weight(target.float())[:, :, ::2, ::2], arrays["weight_map"], rtol=1e-5)


@pytest.mark.parametrize("z, target, name", [(0, 0, "negative"), (0, 1, "positive")])
def test_focal_terms_at_logit_0(case, z, target, name):
    expected = case[3]["losses"][f"focal_{name}_term_at_logit_0"]["value"]
    loss = binary_focal_loss(torch.full((1, 1, 1, 1), float(z)), torch.full((1, 1, 1, 1), target))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_perfect_logits_cost_next_to_nothing():
    mask = torch.zeros(1, 1, 48, 48)
    mask[..., 10:20, 10:20] = 1
    terms = snet_loss([(2 * mask - 1) * 30] * 3, mask)
    assert sum(terms.values()).item() < 1e-3


@pytest.mark.parametrize("threshold", ["0.5", "0.7"])
def test_slice_scores_equal_the_authors_with_and_without_their_correction(case, threshold):
    arrays, _, target, expected = case
    expected, logits, reference = expected["metrics"][f"threshold_{threshold}"], arrays["out"], target.numpy() > 0
    before = logits.copy()
    corrected = probability_correction(logits, float(threshold))
    assert np.array_equal(logits, before)  # theirs changes its argument
    after_call = arrays[f"logits_after_dice_call_thr{threshold.replace('.', '_')}"]
    assert np.allclose(corrected[:, :, ::2, ::2], after_call, rtol=1e-5)
    for maps, suffix in ((corrected, ""), (logits, "_without_correction")):
        scores = [slice_scores(*pair) for pair in zip(reference, maps > logit(float(threshold)))]
        for name in ("dice", "recall"):
            assert [score[name] for score in scores] == pytest.approx(expected[f"{name}_per_sample{suffix}"], rel=1e-5)


def test_the_published_metric_counts_empty_slices_as_1():
    reference, prediction = np.zeros((2, 4, 8, 8), bool)
    reference[0, 2:4, 2:4] = prediction[0, 2:4, 2:4] = prediction[1, 0, 0] = True
    reference[2, 5, 5] = True
    assert slice_dice_as_published(reference, prediction) == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert math.isnan(slice_scores(reference[3], prediction[3])["dice"])
