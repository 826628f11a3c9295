"""The networks against the authors' numbers (golden values), and what holds for any size."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from focusnet_v2.config import Config
from focusnet_v2.inference import ready, run
from focusnet_v2.networks import (
    FocusNet,
    ShapeAutoencoder,
    SmallOrganBranch,
    SNet,
    box_corners,
    build_network,
    cut_boxes,
)
from focusnet_v2.original_checkpoint import guess_kind, load_original_checkpoint
from shared_data.errors import InputError


def relative_error(ours, reference):
    return np.abs(ours.detach().numpy() - reference).max() / np.abs(reference).max()


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_backbone_equals_the_authors(golden, filled_state):
    network = load_original_checkpoint(filled_state("focusnet_snet3d"), "snet")
    arrays = np.load(golden / "focusnet_snet3d.npz")
    with torch.no_grad():
        logits = network(torch.from_numpy(arrays["x"]))
    assert relative_error(logits, arrays["out"]) < 1e-5
    assert (logits.argmax(1).numpy() == arrays["argmax"]).mean() > 0.999


def test_heatmap_head_and_branches_of_the_whole_network_equal_the_authors(golden, whole_state):
    network = load_original_checkpoint(whole_state(), "focusnet_sos")
    heat, branch = np.load(golden / "focusnet_heatmap.npz"), np.load(golden / "focusnet_sos_branch.npz")
    with torch.no_grad():
        assert relative_error(network.localise(torch.from_numpy(heat["x"])), heat["out"]) < 1e-5
        for part in network.branches:
            assert relative_error(part(torch.from_numpy(branch["x_last"])), branch["out"]) < 1e-5
    without = {key: value for key, value in whole_state().items() if "sos" not in key}
    plain = load_original_checkpoint(without, "focusnet")
    assert not plain.branches and n_parameters(plain) == 1_963_114 + 55_523


def test_autoencoder_equals_the_authors(golden, filled_state):
    network = load_original_checkpoint(filled_state("focusnet_shape_autoencoder"), "autoencoder")
    arrays = np.load(golden / "focusnet_shape_autoencoder.npz")
    with torch.no_grad():
        mask, code, feature1, feature2 = network(torch.from_numpy(arrays["x"]))
        logits, _, _ = network.decode(torch.from_numpy(arrays["code"]))
    for ours, name in ((mask, "recon"), (code, "code"), (feature1[..., ::2, ::2], "x1_sub"),
                       (feature2[:, :, ::2, ::4, ::4], "x2_sub"), (logits, "decode_logits")):
        assert relative_error(ours, arrays[name]) < 1e-5, name


def test_parameter_counts_equal_the_authors():
    counts = {SNet(): 1_963_114, FocusNet().localise: 55_523, SmallOrganBranch(): 1_610_031, FocusNet(): 6_848_730,
              ShapeAutoencoder(): 31_148_801}
    assert [n_parameters(network) for network in counts] == list(counts.values())


def test_the_kind_of_a_checkpoint_is_found(filled_state, whole_state):
    whole = whole_state()
    assert guess_kind(whole) == "focusnet_sos"
    assert guess_kind({key: value for key, value in whole.items() if "sos" not in key}) == "focusnet"
    assert guess_kind({"state_dict": filled_state("focusnet_snet3d")}) == "snet"
    assert guess_kind(filled_state("focusnet_shape_autoencoder")) == "autoencoder"
    with pytest.raises(InputError, match="not a checkpoint of FocusNet"):
        guess_kind({"a.weight": torch.zeros(1)})


def test_every_tensor_of_a_checkpoint_must_fit(filled_state, whole_state):
    state = filled_state("focusnet_snet3d")
    for change, message in (({"extra.weight": torch.zeros(1)}, "extra.weight has no place"),
                            ({"out_conv.bias": torch.zeros(7)}, "out_conv.bias has shape .7,."),
                            ({"out_conv.bias": "text"}, "out_conv.bias has no place"),
                            ({"out_conv.bias": torch.full((10,), torch.nan)}, "out_conv.bias holds values")):
        with pytest.raises(InputError, match=message):
            load_original_checkpoint({**state, **change}, "snet")
    with pytest.raises(InputError, match="head.bias is missing"):
        load_original_checkpoint({key: value for key, value in state.items() if key != "out_conv.bias"}, "snet")
    with pytest.raises(InputError, match="branches.2.*is missing"):
        load_original_checkpoint(whole_state(2))
    with pytest.raises(InputError, match="kind 'vnet' is unknown. Valid: snet"):
        load_original_checkpoint(state, "vnet")


@pytest.mark.parametrize("inputs", ["raw", "all"])
@pytest.mark.parametrize("shape", [(8, 16, 20), (10, 24, 16)])
def test_outputs_have_the_size_of_the_volume(inputs, shape):
    network = build_network(Config(width=8, sos_inputs=inputs, box_zyx=(8, 16, 16)))
    outputs = network(torch.rand(2, 1, *shape))
    assert outputs["logits"].shape == (2, 10, *shape) and outputs["heatmap"].shape == (2, 3, *shape)
    assert outputs["small"].shape == (2, 3, 8, 16, 16) and outputs["corners"].shape == (2, 3, 3)
    outputs["small"].sum().backward()  # the crops are detached
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == name.startswith("branches"), name


@settings(deadline=None, max_examples=30)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.integers(0, 9)] * 3), st.integers(0, 10 ** 6))
def test_boxes_hold_the_peak_and_lie_inside(box, more, seed):
    shape = tuple(np.add(box, more).tolist())
    heatmap = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(seed))
    corners = box_corners(heatmap, box)
    for i in range(3):
        boxes = cut_boxes(heatmap[:, i:i + 1], corners[:, i], box)
        assert boxes.shape == (2, 1, *box)
        assert torch.equal(boxes.amax((1, 2, 3, 4)), heatmap[:, i].amax((1, 2, 3)))  # each sample its own peak


def test_the_shape_auto_encoder_learns_masks_that_fill_few_voxels():
    """From an output of 0.5 it empties them all, and stays there: Dice 0 after as many steps."""
    torch.manual_seed(0)
    z, y, x = torch.meshgrid(*map(torch.arange, (8, 16, 16)), indexing="ij")
    masks = torch.stack([4 * (z - 4 - i % 2) ** 2 + (y - 5 - i) ** 2 * (1 + i % 3) + (x - 9 + i) ** 2 < 14
                         for i in range(6)])[:, None].float()
    network = ShapeAutoencoder((8, 16, 16), 8, 16)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(60):
        found = network(masks)[0]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(found, masks).backward()
        optimizer.step()
    assert masks.mean() < 0.05
    assert 2 * ((found > 0.5) * masks).sum() / ((found > 0.5).sum() + masks.sum()) > 0.85


@pytest.mark.parametrize("stage, sos_inputs", [("backbone", "raw"), ("backbone_heatmap", "raw"),
                                               ("adversarial", "raw"), ("adversarial", "all")])
@torch.inference_mode()
def test_openvino_gives_what_pytorch_gives(stage, sos_inputs):
    config = Config(width=8, sos_inputs=sos_inputs, box_zyx=(8, 8, 8), precision="32-true")
    network, image = build_network(config, stage).eval(), torch.rand(1, 1, 8, 16, 24)
    expected = run(network, image, config)
    outputs = run(ready(network, "openvino", config, torch.device("cpu")), image, config)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value, atol=1e-5, rtol=1e-4)
