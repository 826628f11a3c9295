"""The networks against the authors' numbers (golden values)."""
import json

import numpy as np
import pytest
import torch
from fill import fill_entries

from sepnet.config import Config
from sepnet.networks import InstanceNorm, SepNet, UNet3D, build_network
from sepnet.original_checkpoint import guess_options, load_original_checkpoint, renamed
from shared_data.errors import InputError

GOLDEN = {"sepnet_unet_separate_axial": ("sepnet", 24, "axial", 5e-4),
          "sepnet_unet_separate_sagittal": ("sepnet", 12, "sagittal", 5e-4),
          "sepnet_unet_separate_coronal": ("sepnet", 12, "coronal", 5e-4),
          "sepnet_unet": ("unet", 16, "axial", 1e-5)}


def filled_state(golden, name):
    """The authors' state dict with the weights of the golden files."""
    entries = [(key, shape) for key, shape, *_ in json.loads((golden / f"{name}.json").read_text())["state"]]
    return {key: torch.from_numpy(value) for key, value in fill_entries(entries, 20240).items()}


def relative_error(ours, reference):
    return np.abs(ours.numpy() - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_equal_the_authors(golden, name):
    kind, base_channels, direction, tolerance = GOLDEN[name]
    state = filled_state(golden, name)
    options = {"kind": kind, "base_channels": base_channels, "n_classes": 23, "separate_direction": direction}
    assert guess_options({f"module.{key}": value for key, value in state.items()}) == options
    network = load_original_checkpoint({f"module.{key}": value for key, value in state.items()}, **options)
    arrays = np.load(golden / f"{name}.npz")
    with torch.no_grad():
        logits, probabilities = network.logits(torch.from_numpy(arrays["x"])), network(torch.from_numpy(arrays["x"]))
    assert relative_error(logits[..., ::2, ::2, ::2], arrays["logits_sub"]) < tolerance
    assert relative_error(probabilities[..., ::2, ::2, ::2], arrays["prob_sub"]) < tolerance
    assert (probabilities.argmax(1).numpy() == arrays["argmax"]).mean() > 0.999


def test_every_direction_needs_its_own_kernels(golden):
    state = filled_state(golden, "sepnet_unet_separate_sagittal")
    with pytest.raises(InputError, match="conv1.model.conv1_1_depth.Conv.weight has shape"):
        load_original_checkpoint(state, base_channels=12, separate_direction="coronal")


@pytest.mark.parametrize("base_channels, n_classes", [(b, c) for b in (12, 16, 24) for c in (5, 23)])
def test_parameter_counts_equal_the_authors(golden, base_channels, n_classes):
    counts = json.loads((golden / "sepnet_parameter_counts.json").read_text())
    expected = counts[f"base{base_channels}_classes{n_classes}"]
    for kind, network in (("unet", UNet3D(n_classes, base_channels)),
                          ("unet_separate", SepNet(n_classes, base_channels))):
        assert sum(parameter.numel() for parameter in network.parameters()) == expected[kind]


@pytest.mark.parametrize("network", ["sepnet", "unet"])
@pytest.mark.parametrize("shape", [(1, 1, 8, 24, 32), (2, 1, 16, 16, 16)])
def test_probabilities_have_the_size_of_the_volume_and_sum_to_1(network, shape):
    built = build_network(Config(network=network, base_channels=4, n_classes=5)).eval()
    with torch.no_grad():
        probabilities = built(torch.rand(shape))
    assert probabilities.shape == (shape[0], 5, *shape[2:])
    assert torch.allclose(probabilities.sum(1), torch.ones(()))


@pytest.mark.parametrize("kind, name", [("sepnet", "sepnet_unet_separate_axial"), ("unet", "sepnet_unet")])
def test_every_tensor_of_a_checkpoint_must_fit(golden, kind, name):
    state = filled_state(golden, name)
    options = guess_options(state)
    first, last = next(iter(state)), list(state)[-1]
    for change, message in (({"extra.weight": torch.zeros(1)}, "extra.weight has no place"),
                            ({last: torch.zeros(7)}, f"{last} has shape .7,."), ({first: "text"}, first)):
        with pytest.raises(InputError, match=message):
            load_original_checkpoint({**state, **change}, **options)
    for wrong in ({"n_classes": 5}, {"base_channels": 8}):
        with pytest.raises(InputError, match="has shape .*another width, or other classes"):
            load_original_checkpoint(state, **{**options, **wrong})
    del state[last]
    with pytest.raises(InputError, match=f"{renamed(last, kind)} is missing"):
        load_original_checkpoint(state, **options)
    with pytest.raises(InputError, match="kind 'vnet' is unknown. Valid: sepnet, unet"):
        load_original_checkpoint(state, kind="vnet")


def test_the_bottom_computes_in_float32():
    """In bfloat16 its kernels of 3 over 2 slices give, on some CPUs, now and then, gradients that are no numbers."""
    network, computed = build_network(Config(n_classes=3, base_channels=2)), {}
    for name in ("bottom", "encoder"):
        layer = next(layer for layer in getattr(network, name).modules() if isinstance(layer, torch.nn.Conv3d))
        layer.register_forward_hook(lambda _, __, output, name=name: computed.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(1, 1, 16, 32, 32))
    assert computed == {"bottom": torch.float32, "encoder": torch.bfloat16}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("samples", [1, 2])
def test_instance_norm_keeps_channels_last(precision, samples):
    plain = torch.randn(samples, 6, 4, 5, 7).to(precision)
    last = plain.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    plain = plain.clone().requires_grad_()
    expected, normed = torch.nn.InstanceNorm3d(6)(plain), InstanceNorm(6)(last)
    assert normed.is_contiguous(memory_format=torch.channels_last_3d)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if precision == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(normed, expected, check_stride=False, **tolerance)
    weight = torch.randn_like(plain)
    (expected * weight).sum().backward()
    (normed * weight).sum().backward()
    torch.testing.assert_close(last.grad, plain.grad, check_stride=False, atol=0.05 if precision == torch.bfloat16 else
                               1e-5, rtol=0.05)
