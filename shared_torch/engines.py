"""Engines that run a trained network: PyTorch, or OpenVINO, faster on CPUs (tests.bench.inference_engines)."""
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch

from shared_data.errors import InputError
from shared_data.named_types import Array, Floats
from shared_data.settings import Device, Precision

if TYPE_CHECKING:
    from openvino import InferRequest

Engine = Literal["auto", "torch", "openvino"]
Network = Callable[[torch.Tensor], torch.Tensor]  # a network with one input and one output, run by an engine
HINTS = {"32-true": "f32", "bf16-mixed": "bf16", "16-mixed": "f16"}  # OpenVINO's names of the precisions
KEPT_SHAPES = 4  # networks kept, each compiled for a shape: the windows of a CT have one or two


class NetworkOptions(Protocol):
    """Options of predict.py and test.py about the networks."""

    @property
    def checkpoint(self) -> tuple[Path, ...] | None: ...

    @property
    def device(self) -> Device: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def precision(self) -> Precision: ...


def choose_engine(name: str, device_type: str) -> Literal["torch", "openvino"]:
    """The engine to use; "auto": OpenVINO on a CPU if it is installed. Raises InputError if "openvino" cannot be used.
    """
    if name == "torch" or (name == "auto" and device_type != "cpu"):
        return "torch"
    if device_type != "cpu":
        raise InputError(f"--engine openvino runs on the CPU, not on {device_type}. Add --device cpu, or leave it out.")
    if find_spec("openvino"):
        return "openvino"
    if name == "openvino":
        raise InputError("--engine openvino: the package openvino is not installed. pip install openvino, or leave it "
                         "out.")
    _note_missing()
    return "torch"


@cache
def _note_missing():
    print("note: the package openvino is not installed; PyTorch runs the network, slower on a CPU", file=sys.stderr)


@cache
def _core():
    """The process's only Core. Each one sets the thread's signal stack and removes it at its end; with several, the
    next signal that Python handles would end the process (OpenVINO 2026.4)."""
    from openvino import Core
    return Core()


class Compiled:
    """A network with one input, run by OpenVINO on the CPU: takes an array or tensor, returns its outputs as float32
    arrays. Compiled anew for each input shape.

    trace: returns the network in eval mode, traced by torch.jit on an input of any size.
    """

    def __init__(self, trace: Callable[[], torch.jit.ScriptModule], precision: str, threads: int) -> None:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes in the trace: they only guard against bad input
            decoder = TorchScriptPythonDecoder(trace())
        frontend = FrontEndManager().load_by_framework("pytorch")  # openvino.convert_model would send telemetry
        self.converted, self.owner = frontend.convert(frontend.load(decoder)), decoder  # it uses the decoder's weights
        self.hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads,
                      "ENABLE_CPU_PINNING": False}  # with pinning, parallel processes would share the first core
        self.requests: OrderedDict[tuple[int, ...], InferRequest] = OrderedDict()

    def __call__(self, x: Array | torch.Tensor) -> tuple[Floats, ...]:
        array = np.ascontiguousarray(x)
        return self._request(array.shape).infer([array]).to_tuple()

    def _request(self, shape):
        if shape not in self.requests:
            model = self.converted.clone()
            model.reshape(shape)
            self.requests[shape] = _core().compile_model(model, "CPU", self.hints).create_infer_request()
            if len(self.requests) > KEPT_SHAPES:
                self.requests.popitem(last=False)
        self.requests.move_to_end(shape)
        return self.requests[shape]
