"""The network against the authors' numbers (golden values)."""
import json

import numpy as np
import pytest
import torch
from fill import fill_entries

from shared_data.errors import InputError
from snet_neck_ln.config import Config
from snet_neck_ln.inference import ready
from snet_neck_ln.networks import AxialAttention, SNet, build_network
from snet_neck_ln.original_checkpoint import load_original_checkpoint, renamed

SEED = 20240


def filled_state(golden, name):
    """The authors' state dict with the weights of the golden files."""
    entries = [(key, shape) for key, shape, *_ in json.loads((golden / f"{name}.json").read_text())["state"]]
    return {key: torch.from_numpy(value) for key, value in fill_entries(entries, SEED).items()}


def relative_error(ours, reference):
    return np.abs(ours.detach().numpy() - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state, "epoch": 3},
                                  lambda state: {"model": {"module." + key: value for key, value in state.items()}}])
def test_outputs_equal_the_authors(golden, wrap):
    network = load_original_checkpoint(wrap(filled_state(golden, "snet2d")))
    arrays = np.load(golden / "snet2d.npz")
    with torch.no_grad():
        outputs = network(torch.from_numpy(arrays["x"]))
    for name, output in zip(("out", "ra_out1", "ra_out2"), outputs):
        assert relative_error(output, arrays[name]) < 1e-5
    assert sum(parameter.numel() for parameter in network.parameters()) == 821_613


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_what_predicts_equals_the_authors_main_map(golden, engine):
    network = load_original_checkpoint(filled_state(golden, "snet2d"))
    arrays = np.load(golden / "snet2d.npz")
    channels = arrays["x"].shape[1]
    config = Config(context_slices=(channels - 1) // 2, precision="32-true")
    with torch.inference_mode():
        main = ready(network, engine, config, torch.device("cpu"))(torch.from_numpy(arrays["x"]))
    assert relative_error(main, arrays["out"]) < 1e-5


@pytest.mark.parametrize("name, axis", [("axial_attention_h", "height"), ("axial_attention_w", "width")])
def test_original_axial_attention_equals_the_authors(golden, name, axis):
    arrays, attention = np.load(golden / f"{name}.npz"), filled_attention(golden, name, axis, "original")
    for form in ("", "_soft", "_rect"):
        assert relative_error(attention(torch.from_numpy(arrays["x" + form])), arrays["out" + form]) < 1e-5


def filled_attention(golden, name, axis, layout):
    attention = AxialAttention(16, axis, layout)
    attention.load_state_dict({renamed(f".{key}")[1:]: value for key, value in filled_state(golden, name).items()})
    return attention


def test_paper_layout_attends_along_the_axis_it_names(golden):
    """The golden width block is right; height is the same on the transposed map, at the distances the facts tell."""
    arrays = np.load(golden / "axial_attention_w.npz")
    for form, distance in (("", 8.8), ("_rect", 11.0)):
        x, reference = torch.from_numpy(arrays["x" + form]), arrays["out" + form]
        width = filled_attention(golden, "axial_attention_w", "width", "paper")
        height = filled_attention(golden, "axial_attention_h", "height", "paper")
        assert relative_error(width(x), reference) < 1e-5
        assert torch.allclose(height(x.transpose(2, 3)).transpose(2, 3), width(x), atol=1e-5)
        theirs = np.load(golden / "axial_attention_h.npz")["out" + form]
        assert np.abs(height(x).detach().numpy() - theirs).max() == pytest.approx(distance, abs=0.05)


@pytest.mark.parametrize("context, shape", [(0, (2, 1, 64, 64)), (1, (1, 3, 48, 80)), (2, (1, 5, 36, 36))])
@pytest.mark.parametrize("layout", ["original", "paper"])
def test_logits_have_the_size_of_the_slice(context, shape, layout):
    network = build_network(Config(context_slices=context, axial_layout=layout)).eval()
    outputs = network(torch.zeros(shape))
    assert [output.shape for output in outputs] == [(shape[0], 1, *shape[2:])] * 3


def test_every_tensor_of_a_checkpoint_must_fit(golden):
    state = filled_state(golden, "snet2d")
    for change, message in (({"extra.weight": torch.zeros(1)}, "extra.weight"),
                            ({"literal1.bias": torch.zeros(7)}, "literal1.bias has shape .7,."),
                            ({"conv1x.conv1.weight": torch.zeros(3)}, "conv1x.conv1.weight"),
                            ({"out_conv.bias": "text"}, "out_conv.bias")):
        with pytest.raises(InputError, match=message):
            load_original_checkpoint({**state, **change})
    del state["out_conv.bias"]
    with pytest.raises(InputError, match="head.bias is missing"):
        load_original_checkpoint(state)


def test_every_name_of_the_authors_has_one_of_ours(golden):
    entries = json.loads((golden / "snet2d.json").read_text())["state"]
    own = SNet().state_dict()
    assert {renamed(key): tuple(shape) for key, shape, *_ in entries} == {k: tuple(v.shape) for k, v in own.items()}
