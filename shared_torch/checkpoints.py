"""Checkpoints of PyTorch networks: plain tensors, written whole, read without executing anything."""
from functools import partial

import torch

from shared_data.checkpoints import check_origin, read_archive, write_archive
from shared_data.errors import InputError


def save_checkpoint(path, project: str, **state) -> None:
    """Write `state` and the project's name; a kill or a full disk leaves the old file."""
    write_archive(path, partial(torch.save, {"project": project, **state}))


def read_checkpoint(path) -> dict:
    """The dict in a checkpoint file, without executing anything from it (weights_only)."""
    return read_archive(path, partial(torch.load, map_location="cpu", weights_only=True))


def load_checkpoint(path, project: str) -> dict:
    """The state of one of a project's checkpoints. Raises InputError for a damaged file or another project's."""
    state = read_checkpoint(path)
    check_origin(state, project, path)
    return state


def trained_on(path) -> list[str]:
    """Names of the patients that a checkpoint has learnt from, as far as it says so (the authors' do not)."""
    return read_checkpoint(path).get("trained_on", [])


def load_strictly(network: torch.nn.Module, tensors: dict, where, names: dict | None = None) -> None:
    """Load every tensor into a network; one that is unknown, absent, of another shape or not finite raises
    InputError under its name in `names`. Batch normalisation's counters may be absent: old files lack them."""
    names, own = names or {}, network.state_dict()
    for key, tensor in tensors.items():
        name = names.get(key, key)
        if key not in own or not hasattr(tensor, "isfinite"):
            raise InputError(f"{where}: {name} has no place in the network. Is it another network's?")
        if own[key].shape != tensor.shape:
            raise InputError(f"{where}: {name} has shape {tuple(tensor.shape)}, the network's is "
                             f"{tuple(own[key].shape)}. Made with another width, or other classes?")
        if not tensor.isfinite().all():
            raise InputError(f"{where}: {name} holds values that are not numbers. Take another checkpoint.")
    absent = sorted(key for key in own.keys() - tensors.keys() if not key.endswith("num_batches_tracked"))
    if absent:
        raise InputError(f"{where}: {absent[0]} is missing ({len(absent)} tensors in all). Is it another network's?")
    network.load_state_dict(tensors, strict=False)
