"""Our checkpoints: plain tensors, numbers and strings, written whole; read without executing anything."""
from functools import partial

import torch

from shared_data.checkpoints import check_origin, load_strictly, write_archive
from shared_data.settings import config_from_dict
from snet_neck_ln.config import Config
from snet_neck_ln.networks import build_network
from snet_neck_ln.original_checkpoint import load_original_checkpoint, read_checkpoint

PROJECT = "snet_neck_ln"


def save_checkpoint(path, **state):
    """Write `state` and the project's name; a kill or a full disk leaves the old file."""
    write_archive(path, partial(torch.save, {"project": PROJECT, **state}))


def load_checkpoint(path):
    """The state of one of our checkpoints. Raises InputError for a damaged file or another project's."""
    state = read_checkpoint(path)
    check_origin(state, PROJECT, path)
    return state


def trained_on(path):
    """Names of the patients that a checkpoint has learnt from, as far as it says so (the authors' do not)."""
    return read_checkpoint(path).get("trained_on", [])


def load_network(path):
    """(network in eval mode, its Config) of our checkpoint or the authors'; theirs gets the default settings."""
    loaded = read_checkpoint(path)
    if "project" not in loaded:
        network = load_original_checkpoint(path)
        return network, Config(context_slices=(network.stem[0].in_channels - 1) // 2)
    state = load_checkpoint(path)
    config = config_from_dict(Config, state["config"], path)
    network = build_network(config)
    load_strictly(network, state["model"], path)
    return network.eval(), config
