"""Our checkpoints: plain tensors, numbers and strings, written whole; read without executing anything."""
from functools import partial
from pathlib import Path

import torch

from sepnet.config import Config
from sepnet.networks import build_network
from sepnet.original_checkpoint import guess_options, load_original_checkpoint, read_checkpoint
from shared_data.checkpoints import check_origin, load_strictly, write_archive
from shared_data.errors import InputError
from shared_data.settings import build, config_from_dict

PROJECT = "sepnet"
SHIPPED = Path(__file__).parent / "weights" / "openkbp.pt"  # learnt from real patients, see README.md beside it


def save_checkpoint(path, **state):
    """Write `state` and the project's name; a kill or a full disk leaves the old file."""
    write_archive(path, partial(torch.save, {"project": PROJECT, **state}))


def load_checkpoint(path):
    """The state of one of our checkpoints. Raises InputError for a damaged file or another project's."""
    state = read_checkpoint(path)
    check_origin(state, PROJECT, path)
    return state


def trained_on(path):
    """Names of the cases that a checkpoint has learnt from, as far as it says so (the authors' do not)."""
    return read_checkpoint(path).get("trained_on", [])


def load_network(path):
    """(network in eval mode, its Config) of our checkpoint or the authors'; theirs gets the default settings."""
    loaded = read_checkpoint(path)
    if "project" not in loaded:
        state = loaded["model"] if isinstance(loaded.get("model"), dict) else loaded
        try:
            options = guess_options(state)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        network = load_original_checkpoint(path, **options)
        options["network"] = options.pop("kind")
        return network, build(Config, options)
    state = load_checkpoint(path)
    config = config_from_dict(Config, state["config"], path)
    network = build_network(config)
    load_strictly(network, state["model"], path)
    return network.eval(), config
