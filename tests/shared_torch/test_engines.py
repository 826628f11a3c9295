import signal
import subprocess
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from shared_data.errors import InputError
from shared_torch import engines
from shared_torch.engines import KEPT_SHAPES, Compiled, choose_engine


def compiled(network):
    return Compiled(partial(torch.jit.trace, network, torch.zeros(1, 1, 4, 4), check_trace=False), "32-true", 1)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x):
        y = self.layer(x)
        return y, y.mean((2, 3))


def test_auto_is_openvino_on_a_cpu_alone():
    assert choose_engine("auto", "cpu") == "openvino"
    assert choose_engine("auto", "cuda") == choose_engine("torch", "cpu") == "torch"
    with pytest.raises(InputError, match="not on cuda"):
        choose_engine("openvino", "cuda")


def test_without_the_package_torch_runs_and_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert [choose_engine("auto", "cpu") for _ in range(3)] == ["torch"] * 3
    assert capsys.readouterr().err.count("openvino is not installed") == 1
    with pytest.raises(InputError, match="pip install openvino"):
        choose_engine("openvino", "cpu")


@torch.inference_mode()
def test_any_shape_and_several_outputs():
    network = Two().eval()
    run = compiled(network)
    for side in (*range(4, 6 + KEPT_SHAPES), 4):
        x = torch.randn(side % 3 + 1, 1, side, 7)
        for ours, theirs in zip(run(x), network(x)):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-5)
    assert len(run.requests) == KEPT_SHAPES
    x = torch.randn(1, 1, 6, 8).transpose(2, 3)
    np.testing.assert_allclose(run(x)[0], network(x)[0], atol=1e-5, rtol=1e-5)


def test_nothing_is_reported_to_the_maker(monkeypatch):
    import openvino_telemetry
    monkeypatch.setattr(openvino_telemetry.Telemetry, "__init__", lambda *_, **__: pytest.fail("it reports"))
    compiled(Two().eval())


def test_python_still_handles_signals_when_networks_come_and_go():
    for _ in range(3):
        first, second = compiled(Two().eval()), compiled(Two().eval())
        first(torch.zeros(1, 1, 4, 4)), second(torch.zeros(1, 1, 4, 4))
        del first, second
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    subprocess.run(["true"], check=True)
    signal.signal(signal.SIGCHLD, before)
