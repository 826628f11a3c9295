"""Windows through SepNet in batches over one at a time, in windows per second.

    python -m tests.bench.run sepnet_windows
"""
import time

import numpy as np
import torch

from sepnet.config import Config
from sepnet.inference import predict_slices
from sepnet.networks import SepNet
from shared_torch.devices import choose_device


def run(size=64, depth=32, rounds=2):
    device = choose_device("auto")
    network = SepNet(base_channels=8).eval().to(device)
    volume = np.random.default_rng(0).random((depth, size, size)).astype(np.float32)
    seconds = {1: [], 4: []}
    for _ in range(rounds):
        for batch, times in seconds.items():
            start = time.perf_counter()
            for _ in predict_slices(network, volume, Config(window_batch=batch, precision="32-true"), device):
                pass
            times.append(time.perf_counter() - start)
    return {f"one at a time / batches of 4, {device.type}, {torch.get_num_threads()} threads":
            min(seconds[1]) / min(seconds[4])}
