"""The members of an ensemble, and the prepared cases they are run on."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sepnet.checkpoint import load_network
from sepnet.config import ROOT, Config, Device, Precision
from sepnet.inference import ready
from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_data.organs import check_same_organs
from shared_data.settings import load_config, note_differences, set_options, with_changes
from shared_results.ensembles import check_alike, find_members
from shared_torch.devices import choose_device, choose_prediction_precision
from shared_torch.engines import Engine, Network

# Settings that determine the grid, windows and classes of a network; members must agree on them.
GRID = ("organs", "crop_size", "resample", "spacing_zyx", "window_slices")


@dataclass(frozen=True)
class ChainOptions:
    """Options of every script of the inference chain."""

    prepared_dir: Path = ROOT / "data" / "prepared" / "sepnet"  # made by preprocess.py
    results_dir: Path = ROOT / "runs" / "sepnet" / "results"  # <member>/<patient>/..., ensemble/<patient>/...
    split: Literal["valid", "train", "test"] = "valid"  # which prepared cases


@dataclass(frozen=True)
class NetworkOptions:
    """Options of every script that runs networks."""

    window_step: int | None = None  # slices between windows; unset: the checkpoint's (2)
    window_batch: int | None = None  # windows per forward pass; unset: the checkpoint's (1)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "auto"  # auto: 16-mixed on cuda, else 32-true; bf16-mixed: faster on some CPUs, less exact


@dataclass(frozen=True)
class Members:
    """An ensemble: names, networks (on `device`), transforms and configs are parallel lists; `config` is what they
    share.
    """

    names: list[str]
    networks: list[Network]
    transforms: list[str]
    config: Config
    device: torch.device
    configs: list[Config]


def find_checkpoints(run_dir: Path) -> list[Path]:
    """The best.pt of a run folder, or those of the run folders in it. Raises InputError if there is none."""
    found = [run_dir / "best.pt"] if (run_dir / "best.pt").exists() else sorted(run_dir.glob("*/best.pt"))
    if not found:
        raise InputError(f"{run_dir}: no best.pt in it or one level below. Train first, or name a --checkpoint.")
    return found


def find_folds(runs_dir: Path) -> list[Path]:
    """The best.pt of every fold, and of every member of a fold, in a folder of crossval.py."""
    return find_members(runs_dir, "fold*/*/best.pt", "fold*/best.pt", "*/best.pt")


def load_members(checkpoints: Sequence[Path], options: NetworkOptions, **changes: object) -> Members:
    """`Members` from checkpoint paths, with the NetworkOptions and `changes` applied to the settings they share.

    Raises InputError when they differ in classes or grid.
    """
    device = choose_device(options.device)
    loaded = [load_network(path) for path in checkpoints]
    first = loaded[0][1]
    check_alike(checkpoints, [config for _, config in loaded], GRID)
    names = [path.stem if path.stem not in ("best", "last") else path.parent.name for path in checkpoints]
    if len(set(names)) < len(names):
        names = [f"{number}_{path.parent.name}_{path.stem}" for number, path in enumerate(checkpoints, 1)]
    config = with_changes(first, {**changes, **set_options(options, "window_step", "window_batch"),
                                  "precision": choose_prediction_precision(options.precision, device)})
    networks = [ready(network, options.engine, config, device) for network, _ in loaded]
    return Members(names, networks, [own.transform for _, own in loaded], config, device, [own for _, own in loaded])


def check_table(members: Members, prepared_dir: Path) -> None:
    """Raise InputError when the cases were prepared with another label table than the members have; say what else of
    what the networks see was prepared in another way."""
    path = prepared_dir / "config.json"
    kept = load_config(Config, path)
    check_same_organs(members.config.organs, kept.organs, path)
    for name, config in zip(members.names, members.configs):
        note_differences(kept, config, ("crop_size", "resample", "spacing_zyx", config.transform), path, name)


def patients_of(prepared_dir: Path, split: str) -> list[str]:
    """Names of the prepared cases of a split."""
    rows = read_table(prepared_dir / "cases.csv", ["case", "part"])
    return [row["case"] for row in rows if row["part"] == split]


def read_case(folder: Path) -> dict[str, Any]:
    """The content of a prepared case's case.json. Raises InputError when it is damaged."""
    path = folder / "case.json"
    case = read_json(path)
    if not (isinstance(case, dict) and {"scan", "seen", "lps"} <= case.keys()):
        raise InputError(f"{path}: damaged. Delete its folder and run preprocess.py again.")
    return case
