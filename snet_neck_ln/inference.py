"""The network over all slices of a CT."""
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from shared_data.crop import centre_crop
from shared_data.named_types import Floats, Labels, Progress
from shared_results.views import FlipTurn, mean_of_views
from shared_torch.devices import autocast
from shared_torch.engines import Compiled, Engine, Network, choose_engine
from snet_neck_ln.config import Config
from snet_neck_ln.networks import MainMap, SNet
from snet_neck_ln.slices import STEPS, with_context

TINY = np.float32(1e-12)  # keeps logits of certainty finite


def ready(network: SNet, engine: Engine, config: Config, device: torch.device) -> Network:
    """`MainMap` of a network for `predict_logits`: on the device, or compiled by the `Engine`."""
    main = MainMap(network)
    if choose_engine(engine, device.type) == "torch":
        return main.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    example = torch.zeros(1, 2 * config.context_slices + 1, 4, 4)
    compiled = Compiled(partial(torch.jit.trace, main, example, check_trace=False), config.precision,
                        torch.get_num_threads())
    return lambda batch: torch.from_numpy(compiled(batch)[0])


def views_of(config: Config) -> list[FlipTurn]:
    """The flips and quarter turns that a network's training slices had, the slice as it is first."""
    flips = [(), (0,)] if config.flip_probability else [()]
    turns = range(4) if config.rot90_probability else (0,)
    return [FlipTurn(flip, quarters) for flip in flips for quarters in turns]


def averaged(main: Network, views: list[FlipTurn]) -> Network:
    """What `ready` gives, for the mean probability over the views: (B, C, Y, X) -> logits (B, 1, Y, X), Y = X."""
    def logits(batch: torch.Tensor) -> torch.Tensor:
        mean = mean_of_views(lambda copy: main(copy).float().sigmoid(), batch, views, torch, (2, 3))
        return mean.clamp_min(float(TINY)).log() - (1 - mean).clamp_min(float(TINY)).log()
    return logits


@torch.inference_mode()
def predict_logits(main: Network, stored_zyx: Labels, config: Config, device: torch.device,
                   progress: Progress = iter) -> Floats:
    """Logits (z, size, size) of what `ready` gives, from 16-bit slices (z, y, x); the crop of `centre_crop`.

    progress: wraps the batches, tqdm say.
    """
    logits = torch.empty((len(stored_zyx), config.size, config.size))
    for start in progress(range(0, len(stored_zyx), config.batch_size)):
        planes = range(start, min(start + config.batch_size, len(stored_zyx)))
        batch = torch.stack([
            torch.from_numpy(centre_crop(with_context(stored_zyx, k, config.context_slices), config.size)
                             .astype("float32") / STEPS) for k in planes])
        with autocast(device, config.precision):
            logits[planes.start:planes.stop] = main(batch.to(device))[:, 0].float().cpu()
    return logits.numpy()


def predict_members(members: Sequence[Network], stored_zyx: Labels, config: Config, device: torch.device,
                    progress: Progress = iter) -> tuple[Floats, Labels | None]:
    """(logits, votes) of networks asked together: the logits of their mean probability, and each one's own mask
    (members, z, size, size), uint8; of one network its logits and None. One sum is kept, not every member's map."""
    if len(members) == 1:
        return predict_logits(members[0], stored_zyx, config, device, progress), None
    total: Any = 0  # an array after the first member
    votes = []
    for main in members:
        logits = predict_logits(main, stored_zyx, config, device, progress)
        votes.append((logits > logit(config.threshold)).astype(np.uint8))
        total += expit(logits)
    return np.log(total.clip(TINY) / (len(members) - total).clip(TINY)), np.stack(votes)


def logit(probability: float) -> float:
    """The logit above which a voxel's probability is above `probability`."""
    return math.log(probability / (1 - probability))
