"""Run networks over all slices of a CT."""
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
from shared_torch.devices import autocast, check_finite
from shared_torch.engines import Compiled, Engine, Network, choose_engine
from snet_neck_ln.config import Config
from snet_neck_ln.networks import MainMap, SNet
from snet_neck_ln.slices import STEPS, with_context

TINY = np.float32(1e-12)  # keeps the logits of probabilities 0 and 1 finite


def ready(network: SNet, engine: Engine, config: Config, device: torch.device) -> Network:
    """The `MainMap` of a network for `predict_logits`: moved to the device, or compiled by OpenVINO."""
    main = MainMap(network)
    if choose_engine(engine, device.type) == "torch":
        return main.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's types lack it
    example = torch.zeros(1, 2 * config.context_slices + 1, 4, 4)
    compiled = Compiled(partial(torch.jit.trace, main, example, check_trace=False), config.precision,
                        torch.get_num_threads())
    return lambda batch: torch.from_numpy(compiled(batch)[0])


def views_of(config: Config) -> list[FlipTurn]:
    """The flips and quarter turns that a network was trained with; the first view is the slice as it is."""
    flips = [(), (0,)] if config.flip_probability else [()]
    quarter_turns = range(4) if config.rot90_probability else range(1)
    return [FlipTurn(flip, quarters) for flip in flips for quarters in quarter_turns]


def averaged(main: Network, views: list[FlipTurn]) -> Network:
    """A network from `ready`, averaged over views: (B, C, Y, X) -> logits (B, 1, Y, X) of the mean probability; Y =
    X."""
    def logits(batch: torch.Tensor) -> torch.Tensor:
        mean = mean_of_views(lambda copy: main(copy).float().sigmoid(), batch, views, torch, (2, 3))
        return mean.clamp_min(float(TINY)).log() - (1 - mean).clamp_min(float(TINY)).log()
    return logits


@torch.inference_mode()
def predict_logits(main: Network, stored_zyx: Labels, config: Config, device: torch.device,
                   progress: Progress = iter) -> Floats:
    """Logits (z, size, size) of a network from `ready`, on the centre crop of 16-bit slices (z, y, x).

    progress: wraps the batches, e.g. in a progress bar.
    """
    logits = torch.empty((len(stored_zyx), config.size, config.size))
    for start in progress(range(0, len(stored_zyx), config.batch_size)):
        planes = range(start, min(start + config.batch_size, len(stored_zyx)))
        batch = torch.stack([
            torch.from_numpy(centre_crop(with_context(stored_zyx, k, config.context_slices), config.size)
                             .astype("float32") / STEPS) for k in planes])
        with autocast(device, config.precision):
            output = main(batch.to(device))[:, 0]
        check_finite(output, config.precision)
        logits[planes.start:planes.stop] = output.float().cpu()
    return logits.numpy()


def predict_members(members: Sequence[Network], stored_zyx: Labels, config: Config, device: torch.device,
                    progress: Progress = iter) -> tuple[Floats, Labels | None]:
    """(logits, votes) of an ensemble: the logits (z, size, size) of its mean probability, and each member's own mask
    (members, z, size, size), uint8. A single network gives its logits and None. Memory holds one sum of probabilities.
    """
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
    """log(p / (1 - p)) of a probability p."""
    return math.log(probability / (1 - probability))
