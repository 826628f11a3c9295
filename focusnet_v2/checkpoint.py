"""Checkpoints, and the networks in them."""
from functools import partial
from pathlib import Path
from typing import Any

import torch

from focusnet_v2.config import STAGES, Config
from focusnet_v2.grids import CONSTANTS
from focusnet_v2.networks import build_network
from focusnet_v2.original_checkpoint import guess_kind, load_original_checkpoint
from shared_data.errors import InputError
from shared_data.named_types import StrPath
from shared_data.options import shown
from shared_data.settings import config_from_dict, note_constants
from shared_torch import checkpoints
from shared_torch.checkpoints import load_strictly

PROJECT = "focusnet_v2"
SHIPPED = Path(__file__).parent / "weights" / "openkbp.pt"  # learnt from real patients, see README.md beside it
STAGE_OF = {"snet": "backbone", "focusnet": "backbone_heatmap", "focusnet_sos": "adversarial",
            "autoencoder": "autoencoder"}  # by kind of the authors' networks
save_checkpoint = partial(checkpoints.save_checkpoint, project=PROJECT)


def load_checkpoint(path: StrPath) -> dict[str, Any]:
    """The state of one of our checkpoints. Raises InputError for a damaged file or another project's."""
    state = checkpoints.load_checkpoint(path, PROJECT)
    if state.get("stage") not in STAGES:
        raise InputError(f"{path}: holds no model of any stage. Name another checkpoint.")
    return state


def load_network(path: StrPath) -> tuple[torch.nn.Module, Config, str]:
    """(network in eval mode, its Config, its stage) of our checkpoint or the authors'; theirs get the defaults.

    Raises InputError for the auto-encoder's, which segments nothing.
    """
    loaded = checkpoints.read_checkpoint(path)
    if "project" not in loaded:
        try:
            kind = guess_kind(loaded)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        stage = STAGE_OF[kind]
        refuse_autoencoder(stage, path)
        return load_original_checkpoint(path, kind), Config(), stage
    state = load_checkpoint(path)
    refuse_autoencoder(state["stage"], path)
    config = config_from_dict(Config, state["config"], path)
    note_constants(state.get("constants"), CONSTANTS, path)
    network = build_network(config, state["stage"])
    load_strictly(network, state["model"], path)
    return network.eval(), config, state["stage"]


def refuse_autoencoder(stage: str, path: StrPath) -> None:
    if stage == "autoencoder":
        raise InputError(f"{path}: the auto-encoder, which segments nothing. Name another stage's checkpoint.")


def load_stage(config: Config, stage: str, network: torch.nn.Module, part: bool = False) -> None:
    """Load `best.pt` of an earlier stage of the same run. part: it holds a part of the network, the rest stays.

    Raises InputError when there is none, or when it was made for another grid.
    """
    path = config.run_dir / stage / "best.pt"
    if not path.exists():
        raise InputError(f"{path}: no such file. Finish stage {stage} first, or run train.py.")
    state = load_checkpoint(path)
    earlier = config_from_dict(Config, state["config"], path)
    of_network = ("box_zyx", "ae_width", "code_length") if stage == "autoencoder" else ("width",)
    for name in ("organs", "spacing_xyz", "resample_axes", "val_fold", *of_network):
        if getattr(earlier, name) != getattr(config, name):
            raise InputError(f"{path}: made with {name} {shown(getattr(earlier, name))} (now "
                             f"{shown(getattr(config, name))}). Use the same, or another --run-dir.")
    load_strictly(network, {**(network.state_dict() if part else {}), **state["model"]}, path)
