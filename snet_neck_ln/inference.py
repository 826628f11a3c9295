"""The network over all slices of a CT; what it runs on."""
import math
from functools import partial
from typing import Callable

import numpy as np
import torch
from scipy.special import expit

from shared_data.crop import centre_crop
from shared_data.engines import Compiled, choose_engine
from shared_data.settings import device_there
from shared_data.views import View, mean_of_views
from snet_neck_ln.config import Config
from snet_neck_ln.networks import MainMap
from snet_neck_ln.slices import STEPS, with_context

TINY = np.float32(1e-12)  # keeps logits of certainty finite
DTYPES = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of `autocast`


def choose_device(name):
    """torch.device of "auto", "cpu", "cuda" or "mps". Raises InputError when it is not there."""
    return torch.device(device_there(name, {
        "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}))


def autocast(device, precision):
    """Context of a forward pass in a precision that `choose_precision` gives; another is a ValueError, "auto", too."""
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is none of {', '.join(DTYPES)}")
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "32-true")


def ready(network, engine, config, device):
    """`MainMap` of a network for `predict_logits`: on the device, or compiled by the `Engine`."""
    main = MainMap(network)
    if choose_engine(engine, device.type) == "torch":
        return main.to(device, memory_format=torch.channels_last)
    example = torch.zeros(1, 2 * config.context_slices + 1, 4, 4)
    compiled = Compiled(partial(torch.jit.trace, main, example, check_trace=False), config.precision,
                        torch.get_num_threads())
    return lambda batch: torch.from_numpy(compiled(batch)[0])


def views_of(config: Config) -> list[View]:
    """The flips and quarter turns that a network's training slices had, the slice as it is first."""
    flips = [(), (0,)] if config.flip_probability else [()]
    return [View(flip, quarters) for flip in flips for quarters in (range(4) if config.rot90_probability else (0,))]


def averaged(main: Callable, views: list[View]) -> Callable:
    """What `ready` gives, for the mean probability over the views: (B, C, Y, X) -> logits (B, 1, Y, X), Y = X."""
    def logits(batch: torch.Tensor) -> torch.Tensor:
        mean = mean_of_views(lambda copy: main(copy).float().sigmoid(), batch, views, torch, (2, 3))
        return mean.clamp_min(float(TINY)).log() - (1 - mean).clamp_min(float(TINY)).log()
    return logits


@torch.inference_mode()
def predict_logits(main, stored_zyx, config, device, progress=iter):
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


def predict_members(members, stored_zyx, config, device, progress=iter):
    """(logits, votes) of networks asked together: the logits of their mean probability, and each one's own mask
    (members, z, size, size), uint8; of one network its logits and None. One sum is kept, not every member's map."""
    if len(members) == 1:
        return predict_logits(members[0], stored_zyx, config, device, progress), None
    total, votes = 0, []
    for main in members:
        logits = predict_logits(main, stored_zyx, config, device, progress)
        votes.append((logits > logit(config.threshold)).astype(np.uint8))
        total += expit(logits)
    return np.log(total.clip(TINY) / (len(members) - total).clip(TINY)), np.stack(votes)


def choose_precision(name, device):
    """Fabric's precision for "auto": bf16-mixed on a CPU with bfloat16 instructions, else 32-true."""
    if name != "auto":
        return name
    able = torch.cpu.get_capabilities()
    fast = device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if fast else "32-true"


def logit(probability):
    """The logit above which a voxel's probability is above `probability`."""
    return math.log(probability / (1 - probability))
