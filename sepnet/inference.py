"""Run networks over a CT, window by window."""
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from sepnet.config import Config
from sepnet.networks import EncoderDecoder
from shared_data.named_types import Floats, Labels, Progress
from shared_torch.devices import autocast, check_finite, quickest_layout
from shared_torch.engines import Compiled, Engine, Network, choose_engine


def ready(network: EncoderDecoder, engine: Engine, config: Config, device: torch.device) -> Network:
    """A network for `predict_slices`: moved to the device, or compiled by OpenVINO."""
    if choose_engine(engine, device.type) == "torch":
        quickest_layout(network, device, config.precision)
        return network.to(device)
    compiled = Compiled(partial(torch.jit.trace, network, torch.zeros(1, 1, 16, 16, 16), check_trace=False),
                        config.precision, torch.get_num_threads())
    return lambda batch: torch.from_numpy(compiled(batch)[0])


def window_starts(depth: int, window: int, step: int) -> list[int]:
    """First slices of the windows: `step` apart, the last window flush with the end (authors)."""
    return [*range(0, depth - window, step), max(0, depth - window)]


@torch.inference_mode()
def predict_slices(network: Network, volume_zyx: Floats, config: Config, device: torch.device, step: int | None = None,
                   progress: Progress = iter) -> Iterator[torch.Tensor]:
    """Yield probabilities (C, n, Y, X), summed over windows but not divided, of runs of n slices, in order, on the
    device.

    Only the slices under the current windows are in memory. step: slices between windows, by default
    config.window_step; progress: wraps the batches of windows, e.g. in a progress bar.
    """
    depth, window = len(volume_zyx), config.window_slices
    volume = torch.from_numpy(np.pad(volume_zyx, [(0, max(0, window - depth)), (0, 0), (0, 0)]))
    starts = window_starts(len(volume), window, step or config.window_step)
    batches = [starts[i:i + config.window_batch] for i in range(0, len(starts), config.window_batch)]
    sums, first = torch.zeros(config.n_classes, 0, *volume.shape[1:], device=device), 0
    for i, batch in enumerate(progress(batches)):
        with autocast(device, config.precision):
            parts = network(torch.stack([volume[start:start + window] for start in batch])[:, None].to(device))
        check_finite(parts, config.precision)
        missing = batch[-1] + window - first - sums.shape[1]
        sums = torch.cat([sums, sums.new_zeros(config.n_classes, missing, *volume.shape[1:])], dim=1)
        for start, part in zip(batch, parts):
            sums[:, start - first:start - first + window] += part
        done = (batches[i + 1][0] if i + 1 < len(batches) else depth) - first
        yield sums[:, :done]
        sums, first = sums[:, done:].clone(), first + done


def segment(networks: Sequence[Network], volumes: Sequence[Floats], config: Config, device: torch.device,
            step: int | None = None, progress: Progress = iter,
            look: Callable[[Floats], object] | None = None) -> tuple[Labels, Labels]:
    """Fuse networks slice by slice, each with its own volume (z, y, x) of the same CT.

    look: called with the mean probabilities (C, n, Y, X) of each run of n slices, in order. Returns (labels (z, y, x):
    arg-max of the summed probabilities; votes (networks, z, y, x): arg-max of each network), both uint8.
    """
    labels, votes = [], []
    streams = [predict_slices(network, volume, config, device, step, progress if i == 0 else iter)
               for i, (network, volume) in enumerate(zip(networks, volumes))]
    for parts in zip(*streams):
        votes.append(torch.stack([part.argmax(0) for part in parts]).to(torch.uint8).cpu().numpy())
        total = sum(parts)
        labels.append(total.argmax(0).to(torch.uint8).cpu().numpy())
        if look:
            look((total / total.sum(0)).cpu().numpy())
    return np.concatenate(labels), np.concatenate(votes, axis=1)
