"""What runs a trained network: PyTorch, or OpenVINO, several times as fast on CPUs (tests.bench.engines)."""
import sys
import warnings
from collections import OrderedDict
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch

from shared_data.errors import InputError

Engine = Literal["auto", "torch", "openvino"]
HINTS = {"32-true": "f32", "bf16-mixed": "bf16", "16-mixed": "f16"}  # OpenVINO's names of the precisions
KEPT_SHAPES = 4  # compiled networks kept: windows of one CT have one or two shapes


def choose_engine(name, device):
    """"torch" or "openvino" of an `Engine`: auto is OpenVINO on a CPU where it is installed. Raises InputError."""
    if name == "torch" or (name == "auto" and device.type != "cpu"):
        return "torch"
    if device.type != "cpu":
        raise InputError(f"--engine openvino runs on the CPU, not on {device.type}. Add --device cpu, or leave it out.")
    if find_spec("openvino"):
        return "openvino"
    if name == "openvino":
        raise InputError("--engine openvino: the package openvino is not installed. pip install openvino, or leave it "
                         "out.")
    _say_missing()
    return "torch"


@cache
def _say_missing():
    print("note: the package openvino is not installed; PyTorch, several times as slow on a CPU, runs the network",
          file=sys.stderr)


class Compiled(torch.nn.Module):
    """A network in eval mode run by OpenVINO on the CPU: called with one tensor like the network, gives a float32
    tensor, or a tuple of them where the network gives several.

    smallest: shape of the smallest input that the network takes; it is traced on that. Compiled once for each shape
    that comes.
    """

    def __init__(self, network, smallest, precision="32-true"):
        super().__init__()
        from openvino import Core
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes that are looked at while tracing only guard against bad input
            decoder = TorchScriptPythonDecoder(torch.jit.trace(network, torch.zeros(smallest), check_trace=False))
        frontend = FrontEndManager().load_by_framework("pytorch")  # openvino.convert_model would report to its maker
        self.converted, self.core = frontend.convert(frontend.load(decoder)), Core()
        self.hints = {"INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.requests = OrderedDict()

    def forward(self, x):
        results = self._request(tuple(x.shape)).infer([x.contiguous().numpy()], share_inputs=True).to_tuple()
        outputs = tuple(map(torch.from_numpy, results))
        return outputs if len(outputs) > 1 else outputs[0]

    def _request(self, shape):
        if shape not in self.requests:
            model = self.converted.clone()
            model.reshape(shape)
            self.requests[shape] = self.core.compile_model(model, "CPU", self.hints).create_infer_request()
            if len(self.requests) > KEPT_SHAPES:
                self.requests.popitem(last=False)
        self.requests.move_to_end(shape)
        return self.requests[shape]
