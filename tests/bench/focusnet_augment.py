"""Zoom and rotation of a full-size patch (40x192x192) over a training step on the same device.

    python -m tests.bench.run focusnet_augment

The step: forward and backward of the main network at full width, in the precision of training, on one patch; and the
same of the localisation, where only the heatmap head is trained.
"""
import time

import numpy as np
import torch

from focusnet_v2.augment import augment, draw_theta
from focusnet_v2.config import Config
from focusnet_v2.losses import backbone_loss, heatmap_loss
from focusnet_v2.networks import FocusNet
from shared_torch.devices import choose_precision


def run():
    config, network = Config(), FocusNet(sos_inputs=None)
    bf16 = choose_precision("auto", torch.device("cpu")) == "bf16-mixed"
    shape = config.patch_zyx
    batch = {"image": torch.rand(1, 1, *shape), "label": torch.randint(0, 10, (1, 1, *shape), dtype=torch.uint8),
             "heatmap": torch.rand(1, 3, *shape), "presence": torch.ones(1, 10),
             "theta": torch.from_numpy(draw_theta(np.random.default_rng(0), config, 0.2)).float()[None]}

    def main_network():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network.backbone(batch["image"])
        sum(backbone_loss(logits.float(), batch["label"], config.alpha, batch["presence"]).values()).backward()

    def localisation():
        network.backbone.eval().requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            heatmap = network(batch["image"])["heatmap"]
        heatmap_loss(heatmap.float(), batch["heatmap"], batch["presence"][:, :3]).backward()

    moving = min(seconds(lambda: augment(batch, config)) for _ in range(3))
    without_heatmap = {name: value for name, value in batch.items() if name != "heatmap"}
    moving_less = min(seconds(lambda: augment(without_heatmap, config)) for _ in range(3))
    precision = "bfloat16" if bf16 else "float32"
    return {f"augmentation / step of the main network, {precision}": moving_less / seconds(main_network),
            f"augmentation with heatmaps / step of localisation, {precision}": moving / seconds(localisation)}


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
