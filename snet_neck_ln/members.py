"""The networks that are run together: one, or an ensemble of the folds."""
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from shared_data.errors import InputError
from shared_data.named_types import Values
from shared_data.settings import with_changes
from shared_results.ensembles import check_alike, find_members
from shared_torch import engines
from shared_torch.devices import choose_device, choose_precision
from shared_torch.engines import Engine, Network
from snet_neck_ln.checkpoint import load_network
from snet_neck_ln.config import Config, Device, Precision
from snet_neck_ln.inference import averaged, ready, views_of

# Settings that shape the input of a network; members must agree on them.
INPUT = ("window_center_hu", "window_width_hu", "context_slices")

Loaded = tuple[list[Network], Config, torch.device]


@dataclass(frozen=True)
class NetworkOptions:
    """Options of predict.py and test.py about running networks."""

    threshold: float | None = None  # probability above which a voxel is node; unset: the checkpoint's (0.7)
    size: int | None = None  # side of the centre crop, pixels; unset: the checkpoint's (384)
    batch_size: int = 4  # slices at a time
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "32-true"  # bf16-mixed: twice as fast on CPUs with bfloat16 instructions, less exact


class MemberOptions(engines.NetworkOptions, Protocol):
    """Those, the checkpoints and test-time augmentation."""

    @property
    def tta(self) -> bool: ...


def find_folds(runs_dir: Path) -> list[Path]:
    """The best.pt of every fold in a folder of crossval.py."""
    return find_members(runs_dir, "fold*/best.pt", "*/best.pt")


def load_members(options: MemberOptions, changes: Values) -> Loaded:
    """(networks, Config of the first with `changes`, device) for the options' checkpoints, engine, precision and tta.

    Raises InputError when the networks' inputs differ, and with tta when one was trained without flips and turns.
    """
    device = choose_device(options.device)
    checkpoints = options.checkpoint or ()
    loaded = [load_network(path) for path in checkpoints]
    check_alike(checkpoints, [config for _, config in loaded], INPUT)
    config = with_changes(loaded[0][1], {**changes, "precision": choose_precision(options.precision, device)})
    networks = [ready(network, options.engine, config, device) for network, _ in loaded]
    if options.tta:
        all_views = [views_of(own) for _, own in loaded]
        for path, views in zip(checkpoints, all_views):
            if len(views) == 1:
                raise InputError(f"{path}: has learnt from no flipped or turned slices. Leave out --tta.")
        networks = [averaged(network, views) for network, views in zip(networks, all_views)]
    return networks, config, device
