"""The networks that are asked together: one, or the folds."""
from pathlib import Path
from typing import Protocol

import torch

from shared_data.errors import InputError
from shared_data.named_types import Values
from shared_data.settings import with_changes
from shared_results.ensembles import check_alike, find_members
from shared_torch.devices import choose_device, choose_precision
from shared_torch.engines import Network, NetworkOptions
from snet_neck_ln.checkpoint import load_network
from snet_neck_ln.config import Config
from snet_neck_ln.inference import averaged, ready, views_of

# Settings that decide what a network sees; members must agree on them.
INPUT = ("window_center_hu", "window_width_hu", "context_slices")

Loaded = tuple[list[Network], Config, torch.device]


class Asked(NetworkOptions, Protocol):
    """Of the networks, and whether about copies of the slices, too."""

    @property
    def tta(self) -> bool: ...


def find_folds(runs_dir: Path) -> list[Path]:
    """best.pt of every fold that crossval.py left in a folder."""
    return find_members(runs_dir, "fold*/best.pt", "*/best.pt")


def load_members(options: Asked, changes: Values) -> Loaded:
    """(networks, the Config of the first with `changes`, device) of the options' checkpoints, engine, precision, tta.

    Raises InputError when they do not see the same, or are to be asked about copies that one has not learnt from.
    """
    device = choose_device(options.device)
    checkpoints = options.checkpoint or ()
    loaded = [load_network(path) for path in checkpoints]
    check_alike(checkpoints, [config for _, config in loaded], INPUT)
    config = with_changes(loaded[0][1], {**changes, "precision": choose_precision(options.precision, device)})
    networks = [ready(network, options.engine, config, device) for network, _ in loaded]
    if options.tta:
        views = [views_of(own) for _, own in loaded]
        for path, each in zip(checkpoints, views):
            if len(each) == 1:
                raise InputError(f"{path}: has learnt from no flipped or turned slices. Leave out --tta.")
        networks = [averaged(network, each) for network, each in zip(networks, views)]
    return networks, config, device
