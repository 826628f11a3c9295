"""The networks that are asked together: one, or the folds."""
from pathlib import Path
from typing import Protocol

import torch

from shared_data.ensembles import check_alike, find_members
from shared_data.named_types import Values
from shared_data.settings import Device, Precision, with_changes
from shared_torch.devices import choose_device, choose_precision
from shared_torch.engines import Engine, Network
from snet_neck_ln.checkpoint import load_network
from snet_neck_ln.config import Config
from snet_neck_ln.inference import ready

# Settings that decide what a network sees; members must agree on them.
INPUT = ("window_center_hu", "window_width_hu", "context_slices")


Loaded = tuple[list[Network], Config, torch.device]


class NetworkOptions(Protocol):
    """What predict.py and test.py say of the networks."""

    @property
    def checkpoint(self) -> tuple[Path, ...] | None: ...

    @property
    def device(self) -> Device: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def precision(self) -> Precision: ...


def find_folds(runs_dir: Path) -> list[Path]:
    """best.pt of every fold that crossval.py left in a folder."""
    return find_members(runs_dir, "fold*/best.pt", "*/best.pt")


def load_members(options: NetworkOptions, changes: Values) -> Loaded:
    """(networks, the Config of the first with `changes`, device) of the options' checkpoints, engine and precision.

    Raises InputError when they do not see the same.
    """
    device = choose_device(options.device)
    checkpoints = options.checkpoint or ()
    loaded = [load_network(path) for path in checkpoints]
    check_alike(checkpoints, [config for _, config in loaded], INPUT)
    config = with_changes(loaded[0][1], {**changes, "precision": choose_precision(options.precision, device)})
    return [ready(network, options.engine, config, device) for network, _ in loaded], config, device
