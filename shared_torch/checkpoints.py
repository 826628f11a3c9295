"""Checkpoints of PyTorch networks: plain tensors, written completely or not at all, read without executing anything."""
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from shared_data.checkpoints import check_origin, read_archive, write_archive
from shared_data.errors import InputError
from shared_data.named_types import StrPath


def save_checkpoint(path: StrPath, project: str, **state: object) -> None:
    """Write `state` with the project's name; a kill or a full disk leaves the old file."""
    write_archive(path, partial(torch.save, {"project": project, **state}))


def read_checkpoint(path: StrPath) -> dict[str, Any]:
    """The dict in a checkpoint file, read with weights_only. Raises InputError as `read_archive` does."""
    return read_archive(path, partial(torch.load, map_location="cpu", weights_only=True))


def load_checkpoint(path: StrPath, project: str) -> dict[str, Any]:
    """The state of one of a project's checkpoints. Raises InputError for a damaged file or another project's."""
    state = read_checkpoint(path)
    check_origin(state, project, path)
    return state


def trained_on(path: StrPath) -> list[str]:
    """Names of the patients a checkpoint was trained on; empty if it does not record them (the authors' do not)."""
    return read_checkpoint(path).get("trained_on", [])


def load_strictly(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor], where: StrPath,
                  names: Mapping[str, str] | None = None) -> None:
    """Load every tensor into a network.

    Raises InputError for a tensor that is unknown, missing, of another shape or not finite; names: {key: what to call
    it in the message}. Batch normalisation's counters may be missing, as in old files.
    """
    names, own = names or {}, network.state_dict()
    for key, tensor in tensors.items():
        name = names.get(key, key)
        if key not in own or not hasattr(tensor, "isfinite"):
            raise InputError(f"{where}: {name} has no place in the network. Is it from another network?")
        if own[key].shape != tensor.shape:
            raise InputError(f"{where}: {name} has shape {tuple(tensor.shape)}, the network's is "
                             f"{tuple(own[key].shape)}. Made with another width, or other classes?")
        if not tensor.isfinite().all():
            raise InputError(f"{where}: {name} holds values that are not numbers. Take another checkpoint.")
    absent = sorted(key for key in own.keys() - tensors.keys() if not key.endswith("num_batches_tracked"))
    if absent:
        raise InputError(f"{where}: {absent[0]} is missing ({len(absent)} tensors in all). Is it from another network?")
    network.load_state_dict(tensors, strict=False)
