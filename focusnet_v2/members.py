"""The networks that are asked together: one, or the folds."""
from pathlib import Path

import torch

from focusnet_v2.checkpoint import load_network
from focusnet_v2.config import STAGES, Config
from focusnet_v2.inference import Network, ready
from shared_data.errors import InputError
from shared_data.named_types import Values
from shared_data.settings import with_changes
from shared_results.ensembles import check_alike, find_members
from shared_torch.devices import choose_device, choose_prediction_precision
from shared_torch.engines import NetworkOptions

# Settings that decide which grid a network sees, and what comes out; members must agree on them.
GRID = ("organs", "small", "spacing_xyz", "resample_axes", "patch_zyx", "box_zyx", "window_side")
LAST_FIRST = ("adversarial", "SOL", "backbone_heatmap", "backbone")


def find_checkpoint(run_dir: Path) -> Path:
    """best.pt of the last stage of a run; run_dir may also be the stage's own folder."""
    for path in (*(run_dir / stage / "best.pt" for stage in LAST_FIRST), run_dir / "best.pt"):
        if path.exists():
            return path
    raise InputError(f"{run_dir}: no best.pt of any stage in it. Train first, or name a --checkpoint.")


def find_folds(runs_dir: Path) -> list[Path]:
    """best.pt of the last stage of every fold that crossval.py left in a folder."""
    folds = dict.fromkeys(path.parents[1] for path in find_members(runs_dir, "fold*/*/best.pt", "*/*/best.pt")
                          if path.parent.name in STAGES)
    return [find_checkpoint(fold) for fold in folds]


def load_members(options: NetworkOptions, changes: Values) -> tuple[list[Network], Config, str, torch.device]:
    """(networks, the Config of the first with `changes`, stage, device) of the options' checkpoints, engine and
    precision. Raises InputError when they do not see the same, or stand at different stages."""
    device = choose_device(options.device)
    checkpoints = options.checkpoint or ()
    loaded = [load_network(path) for path in checkpoints]
    check_alike(checkpoints, [config for _, config, _ in loaded], GRID)
    stages = [stage for _, _, stage in loaded]
    for path, stage in zip(checkpoints, stages):
        if stage != stages[0]:
            raise InputError(f"{path}: of stage {stage}, {checkpoints[0]} of {stages[0]}. Ensembles need the same "
                             "stage.")
    config = with_changes(loaded[0][1], {**changes,
                                         "precision": choose_prediction_precision(options.precision, device)})
    return [ready(network, options.engine, config, device) for network, _, _ in loaded], config, stages[0], device
