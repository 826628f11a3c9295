"""Trained networks by engine and precision against plain PyTorch as the authors run it: float32, contiguous, one slice
or window at a time. The papers' full networks, on smaller windows.

    python -m tests.bench.run inference_engines

Also over a product of matrices with as many operations as the network has: a yardstick for what the processor can do.
"""
import time
from functools import partial

import torch

from focusnet_v2.config import Config as FocusNetConfig
from focusnet_v2.inference import ready as ready_focusnet
from focusnet_v2.networks import build_network as build_focusnet
from sepnet.config import Config as SepNetConfig
from sepnet.inference import ready as ready_sepnet
from sepnet.networks import build_network as build_sepnet
from shared_torch.devices import choose_precision
from snet_neck_ln.config import Config as SNetConfig
from snet_neck_ln.inference import ready as ready_snet
from snet_neck_ln.networks import build_network as build_snet
from tests.bench.arithmetic import multiply, operations

CPU = torch.device("cpu")
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}
PROJECTS = {  # name: (config, network, what readies it, shape of a plain input, inputs at a time)
    "S-Net": (SNetConfig(), build_snet, ready_snet, (1, 1, 384, 384), 4),
    "FocusNet": (FocusNetConfig(), partial(build_focusnet, stage="backbone"), ready_focusnet, (1, 1, 40, 96, 96), 1),
    "SepNet": (SepNetConfig(), build_sepnet, ready_sepnet, (1, 1, 16, 128, 128), 1)}


@torch.inference_mode()
def run(rounds=3):
    precisions = dict.fromkeys(["32-true", choose_precision("auto", CPU)])
    ratios = {}
    for project, (config, build, ready, shape, batch) in PROJECTS.items():
        network, inputs = build(config).eval(), torch.rand(batch, *shape[1:])
        calls = {"plain": lambda: [network(one[None]) for one in inputs]}
        for precision in precisions:
            settled = type(config)(precision=precision)
            for engine in ("torch", "openvino"):
                calls[f"{engine} {precision}"] = partial(call, ready(build(config).eval(), engine, settled, CPU),
                                                         inputs, precision)
            calls[f"matrices {precision}"] = partial(multiply, operations(calls["plain"]), DTYPES[precision])
        seconds = {name: [] for name in calls}
        for _ in range(rounds + 1):  # one to warm up and compile
            for name, work in calls.items():
                start = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - start)
        ratios |= {f"{project}: plain / {name}": min(seconds["plain"][1:]) / min(times[1:])
                   for name, times in seconds.items() if name != "plain"}
    return ratios


def call(network, inputs, precision):
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        return network(inputs)
