import pytest
import torch

from shared_data.errors import InputError
from shared_torch.devices import (autocast, choose_device, choose_precision, choose_prediction_precision,
                                  compile_for_training, quickest_layout)


@pytest.mark.parametrize("generation, precision", [
    ((7, 5), "16-mixed"), ((8, 0), "bf16-mixed"), ((9, 0), "bf16-mixed")])
def test_gpus_train_in_half_precision_by_default(monkeypatch, generation, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert choose_precision("auto", torch.device("cuda")) == precision
    assert choose_precision("32-true", torch.device("cuda")) == "32-true"


@pytest.mark.parametrize("able, precision", [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"),
                                             ({"avx512_bf16": False, "avx512_f": True}, "32-true"), ({}, "32-true")])
def test_cpus_take_bfloat16_where_they_have_it(monkeypatch, able, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert choose_precision("auto", torch.device("cpu")) == precision
    assert choose_precision("auto", torch.device("mps")) == "32-true"


@pytest.mark.parametrize("device, precision", [("cuda", "16-mixed"), ("cpu", "32-true"), ("mps", "32-true")])
def test_prediction_takes_half_precision_on_gpus_alone(device, precision):
    assert choose_prediction_precision("auto", torch.device(device)) == precision
    assert choose_prediction_precision("bf16-mixed", torch.device(device)) == "bf16-mixed"


@pytest.mark.parametrize("device, precision, last", [
    ("cuda", "32-true", True), ("cuda", "16-mixed", True), ("cpu", "bf16-mixed", True), ("cpu", "32-true", False),
    ("mps", "32-true", False)])
def test_channels_come_last_where_that_is_faster(device, precision, last):
    network = torch.nn.Conv3d(4, 4, 3)
    quickest_layout(network, torch.device(device), precision)
    assert network.weight.is_contiguous(memory_format=torch.channels_last_3d) == last


def test_a_device_that_is_not_there_is_an_input_error():
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="--device cuda"):
            choose_device("cuda")
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_autocast_takes_resolved_precisions_alone(precision):
    with pytest.raises(ValueError, match=precision):
        autocast(torch.device("cpu"), precision)


def test_compile_wants_a_compiler(monkeypatch):
    compiled, network = [], torch.nn.Linear(1, 1)
    monkeypatch.setattr(network, "compile", lambda: compiled.append(True))
    compile_for_training(network)
    monkeypatch.setattr("shared_torch.devices.which", lambda name: None)
    with pytest.raises(InputError, match="--compile needs a C"):
        compile_for_training(network)
    assert compiled == [True]
