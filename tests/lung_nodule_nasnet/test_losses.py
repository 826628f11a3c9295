"""Losses and their gradients are the authors'."""
import json

import numpy as np
import pytest
import tensorflow as tf

from lung_nodule_nasnet import losses


@pytest.fixture(scope="module")
def fixture(golden):
    return np.load(golden / "losses_nasnet_gcn.npz"), json.loads((golden / "losses_nasnet_gcn.json").read_text())


@pytest.mark.parametrize("loss, name, prediction", [
    (losses.generalised_dice_loss, "gen_dice", "y_pred"),
    (losses.weighted_cross_entropy, "weighted_log_loss", "y_pred"),
    (losses.gdl_wce_loss, "total", "y_pred"), (losses.dice_coefficient, "dice_coef", "y_pred"),
    (losses.weighted_cross_entropy, "weighted_log_loss_unnormalised_input", "y_pred_unnormalised")])
def test_values_and_gradients(fixture, loss, name, prediction):
    values, facts = fixture
    y_pred = tf.Variable(values[prediction])
    with tf.GradientTape() as tape:
        value = loss(values["y_true"], y_pred)
    assert float(value) == pytest.approx(facts["losses"][name]["value"], rel=1e-5)
    assert float(tf.norm(tape.gradient(value, y_pred))) == pytest.approx(facts["losses"][name]["grad_l2"], rel=1e-4)


def test_without_a_nodule_generalised_dice_is_one_and_finite(fixture):
    values, facts = fixture
    empty = np.zeros_like(values["y_true"])
    empty[..., 0] = 1
    value = float(losses.generalised_dice_loss(empty, tf.constant(values["y_pred"])))
    assert value == pytest.approx(facts["losses"]["gen_dice_no_foreground"]["value"], rel=1e-5)


def test_a_perfect_prediction_costs_nothing(fixture):
    y_true = fixture[0]["y_true"].astype(np.float32)
    assert float(losses.gdl_wce_loss(y_true, tf.constant(y_true))) == pytest.approx(0, abs=1e-5)
    assert float(losses.dice_coefficient(y_true, tf.constant(y_true))) == pytest.approx(1)
