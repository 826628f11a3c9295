"""Save and load checkpoints, and the networks in them."""
from functools import partial

import torch

from shared_data.checkpoints import check_origin
from shared_data.named_types import StrPath
from shared_data.settings import config_from_dict
from shared_torch import checkpoints
from shared_torch.checkpoints import load_strictly, read_checkpoint
from snet_neck_ln.config import Config
from snet_neck_ln.networks import SNet, build_network
from snet_neck_ln.original_checkpoint import load_original_checkpoint

PROJECT = "snet_neck_ln"
save_checkpoint = partial(checkpoints.save_checkpoint, project=PROJECT)
load_checkpoint = partial(checkpoints.load_checkpoint, project=PROJECT)


def load_network(path: StrPath) -> tuple[SNet, Config]:
    """(network in eval mode, its Config) of a checkpoint of ours or the authors'; theirs gets default settings.

    Raises InputError for a damaged file, another project's, and tensors that do not fit.
    """
    state = read_checkpoint(path)
    if "project" not in state:
        network = load_original_checkpoint(path)
        first = network.stem[0]
        assert isinstance(first, torch.nn.Conv2d)
        return network, Config(context_slices=(first.in_channels - 1) // 2)
    check_origin(state, PROJECT, path)
    config = config_from_dict(Config, state["config"], path)
    network = build_network(config)
    load_strictly(network, state["model"], path)
    return network.eval(), config
