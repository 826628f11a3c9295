"""What runs a trained network: PyTorch, or OpenVINO, faster on CPUs (tests.bench.inference_engines)."""
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
Network = Callable[[torch.Tensor], torch.Tensor]  # what an engine makes of a network of one input and one output
HINTS = {"32-true": "f32", "bf16-mixed": "bf16", "16-mixed": "f16"}  # OpenVINO's names of the precisions
KEPT_SHAPES = 4  # compiled networks kept: the windows of a CT have one or two shapes


class NetworkOptions(Protocol):
    """What predict.py and test.py say of the networks."""

    @property
    def checkpoint(self) -> tuple[Path, ...] | None: ...

    @property
    def device(self) -> Device: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def precision(self) -> Precision: ...


def choose_engine(name: str, device_type: str) -> Literal["torch", "openvino"]:
    """"torch" or "openvino" of an `Engine`: auto is OpenVINO on a CPU where it is installed. Raises InputError."""
    if name == "torch" or (name == "auto" and device_type != "cpu"):
        return "torch"
    if device_type != "cpu":
        raise InputError(f"--engine openvino runs on the CPU, not on {device_type}. Add --device cpu, or leave it out.")
    if find_spec("openvino"):
        return "openvino"
    if name == "openvino":
        raise InputError("--engine openvino: the package openvino is not installed. pip install openvino, or leave it "
                         "out.")
    _say_missing()
    return "torch"


@cache
def _say_missing():
    print("note: the package openvino is not installed; PyTorch, slower on a CPU, runs the network",
          file=sys.stderr)


@cache
def _core():
    """The only one of the process: each sets the thread's stack for signals, and takes it away when it ends, so that
    with several the next signal that Python handles ends the process (OpenVINO 2026.4)."""
    from openvino import Core
    return Core()


class Compiled:
    """A network of one input run by OpenVINO on the CPU: an array (or tensor) in, its outputs as float32 arrays out.

    trace: gives the network in eval mode as torch.jit traced it, on an input of any size. Compiled once for each shape
    that comes.
    """

    def __init__(self, trace: Callable[[], torch.jit.ScriptModule], precision: str, threads: int) -> None:
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes that the trace looks at only guard against bad input
            decoder = TorchScriptPythonDecoder(trace())
        frontend = FrontEndManager().load_by_framework("pytorch")  # openvino.convert_model would report to its maker
        self.converted, self.owner = frontend.convert(frontend.load(decoder)), decoder  # whose weights it looks at
        self.hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads,
                      "ENABLE_CPU_PINNING": False}  # pinned, processes side by side would share the first core
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
