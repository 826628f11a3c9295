"""The network is the authors', number by number; smaller ones keep its form."""
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from fill import keras_value

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.nasnet_v2 import ResizeAligned, build_network, encoder_taps, nasnet_gcn


@pytest.fixture(scope="module")
def paper(golden):
    """(the paper's network with weights filled by rule, reference arrays, reference numbers)"""
    network = build_network(Config())
    for variable in network.variables:
        variable.assign(keras_value(variable.path.split("/")[-1], variable.shape, 20240))
    return network, np.load(golden / "nasnet_gcn.npz"), json.loads((golden / "nasnet_gcn.json").read_text())


def test_parameters_are_the_papers(paper):
    network, _, facts = paper
    assert network.count_params() == facts["total_parameters"] == 22_049_958
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == facts["trainable_parameters"]
    counts = {}
    for variable in network.variables:
        key = (variable.path.split("/")[-1], tuple(variable.shape))
        counts[key] = counts.get(key, 0) + 1
    assert counts == {(role, tuple(shape)): number for role, shape, number in facts["variables"]}
    total = sum(float(np.abs(v.numpy().astype(np.float64)).sum()) for v in network.variables)
    assert total == pytest.approx(facts["fill_abs_sum"], rel=1e-9)


def test_output_and_taps_are_the_authors(paper):
    network, values, facts = paper
    rectified = {id(layer.output) for layer in network.layers if isinstance(layer, keras.layers.Activation)}
    pairs = [layer.output for layer in network.layers if isinstance(layer, keras.layers.Concatenate)
             and len(layer.input) == 2 and all(id(tensor) in rectified for tensor in layer.input)]
    taps = sorted(pairs, key=lambda tensor: tensor.shape[1])
    assert [tensor.shape[1:] for tensor in taps] == [(25, 25, 352), (50, 50, 176), (100, 100, 44)]
    expected = [row for row in facts["decoder"] if row[3]]
    decoder = [layer for layer in network.layers if layer.weights][-len(expected):]
    model = keras.Model(network.input, [network.output, network.get_layer("logits").output, *taps,
                                        *(layer.output for layer in decoder)])
    probability, logits, *rest = [np.array(value) for value in model(values["x"], training=False)]
    taps, decoded = rest[:3], rest[3:]
    for ours, theirs in ((probability[0, ::4, ::4, 1], values["prob1_sub"]),
                         (logits[0, ::4, ::4], values["logits_sub"])):
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    for tap, indices, step in zip(taps, ((537, 549), (300, 301), (63, 64)), (1, 2, 4)):
        half = tap.shape[3] // 2
        for part, index in zip((tap[..., :half], tap[..., half:]), indices):
            theirs = values[f"tap{index}_sub"]
            assert np.abs(part[0, ::step, ::step, ::8] - theirs).max() < 1e-4 * theirs.max()
    for layer, output, (_, kind, shape, parameters, mean, std) in zip(decoder, decoded, expected):
        assert (type(layer).__name__, list(output.shape), layer.count_params()) == (kind, shape, parameters)
        assert np.allclose([output.mean(), output.std()], [mean, std], rtol=1e-3, atol=1e-5)


def test_a_changed_encoder_is_refused(paper):
    with pytest.raises(ValueError, match="No such layer"):
        encoder_taps(paper[0], 3)


@pytest.mark.parametrize("size", [64, 97])
def test_smaller_networks_keep_the_size_of_the_slice(size):
    network = nasnet_gcn(size, 96, 2, 0.05, 0.8)
    probability = np.array(network(np.zeros((2, size, size, 1), np.float32), training=False))
    assert probability.shape == (2, size, size, 2) and np.allclose(probability.sum(-1), 1, atol=1e-5)
    momenta = {layer.momentum for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.8}


def test_resizing_keeps_the_corners_and_a_plane():
    plane = np.add.outer(np.arange(5.0), 2 * np.arange(7.0)).astype(np.float32)[None, :, :, None]
    wider = np.array(ResizeAligned(9)(plane[:, :, :5]))[0, :, :, 0]
    assert np.allclose(wider, np.add.outer(np.linspace(0, 4, 9), 2 * np.linspace(0, 4, 9)), atol=1e-5)


STEP = """
import keras, numpy as np
from lung_nodule_nasnet.nasnet_v2 import nasnet_gcn
from lung_nodule_nasnet.losses import gdl_wce_loss
network = nasnet_gcn(32, 96, 2, 0.05)
network.compile(keras.optimizers.SGD(1e-2, momentum=0.9), gdl_wce_loss)
truth = np.zeros((2, 32, 32, 2), np.float32); truth[..., 0] = 1; truth[:, 8:12, 8:12] = 0, 1
loss = network.train_on_batch(np.ones((2, 32, 32, 1), np.float32), truth)
print(keras.backend.backend(), np.isfinite(float(loss)))
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_take_a_training_step(backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed in this environment")
    quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # the compilation is all that takes time
    done = subprocess.run([sys.executable, "-c", STEP], env={**os.environ, "KERAS_BACKEND": backend, **quickly},
                          text=True, capture_output=True)
    assert done.stdout.split()[-2:] == [backend, "True"], done.stderr
