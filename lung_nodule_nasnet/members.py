"""The networks that are asked together: one, or the folds."""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lung_nodule_nasnet.config import Config
from shared_results.ensembles import check_alike, find_members

if TYPE_CHECKING:
    import keras

INPUT = ("size", "window")  # settings that decide what a network sees; members must agree on them


def find_folds(runs_dir: Path) -> list[Path]:
    """best.npz of every fold that crossval.py left in a folder."""
    return find_members(runs_dir, "fold*/best.npz", "*/best.npz")


def load_members(paths: Sequence[Path],
                 load: "Callable[[Path], tuple[keras.Model, Config]]") -> "tuple[list[keras.Model], Config]":
    """(networks, the Config of the first); load(path) gives (network, Config) of one. Raises InputError when they do
    not see the same."""
    loaded = [load(path) for path in paths]
    check_alike(paths, [config for _, config in loaded], INPUT)
    return [network for network, _ in loaded], loaded[0][1]
