"""Our checkpoints: one .npz of plain arrays and a JSON text; and Keras files of the authors. Nothing is executed."""
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.lungs import CONSTANTS
from shared_data.checkpoints import read_archive, write_archive
from shared_data.errors import InputError
from shared_data.named_types import Array
from shared_data.settings import config_from_dict, note_constants, to_plain

if TYPE_CHECKING:
    import keras

PROJECT = "lung_nodule_nasnet"
SHIPPED = Path(__file__).parent / "weights" / "lidc_crops.npz"  # learnt from real patients, see README.md beside it
KERAS_SUFFIXES = (".h5", ".hdf5")  # weights or a whole model, as Keras 2 wrote them


def save_checkpoint(path: Path, state: dict[str, Any], kind: str = "segmentation", **groups: Sequence[Array]) -> None:
    """Write `state` (JSON values) and named groups of arrays; a kill or a full disk leaves the old file."""
    arrays: dict[str, Any] = {f"{group}_{number:04d}": np.asarray(value)
              for group, values in groups.items() for number, value in enumerate(values)}
    text = json.dumps({"project": PROJECT, "kind": kind, **state})
    write_archive(path, partial(np.savez, state=text, **arrays))


def load_checkpoint(path: Path, kind: str = "segmentation") -> tuple[dict[str, Any], dict[str, list[Array]]]:
    """(state, {group: arrays in order}) of one of our checkpoints. Raises InputError for anything else.

    A Keras file has the paper's settings and no arrays: `set_weights` reads them from it.
    """
    if kind == "segmentation" and path.suffix in KERAS_SUFFIXES:
        return {"config": to_plain(Config())}, {}

    def load(path):
        with np.load(path, allow_pickle=False) as file:
            groups: dict[str, list[Array]] = {}
            for name in sorted(set(file.files) - {"state"}):
                groups.setdefault(name.rsplit("_", 1)[0], []).append(file[name])
            return {"state": json.loads(str(file["state"])), "groups": groups}

    state, groups = read_archive(path, load).values()
    if not isinstance(state, dict) or state.get("project") != PROJECT or not isinstance(state.get("config"), dict):
        raise InputError(f"{path}: not a checkpoint of {PROJECT}. Name one of this project.")
    if state.get("kind") != kind:
        raise InputError(f"{path}: a checkpoint of the kind {state.get('kind')}, not {kind}. Name another.")
    return state, groups


def set_weights(network: "keras.Model | keras.optimizers.Optimizer", arrays: Sequence[Array], path: Path) -> None:
    """Give a network the weights of a checkpoint. Raises InputError when they are not this network's."""
    variables = network.variables
    if path.suffix in KERAS_SUFFIXES:
        read_keras_weights(network, path)
        arrays = list(map(np.asarray, variables))
    if len(variables) != len(arrays):
        raise InputError(f"{path}: {len(arrays)} weights, the network has {len(variables)}. Made by other settings?")
    for variable, array in zip(variables, arrays):
        if tuple(variable.shape) != array.shape:
            raise InputError(f"{path}: {variable.path} is {array.shape}, the network's {tuple(variable.shape)}.")
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {variable.path} holds values that are not numbers. Take another checkpoint.")
        variable.assign(array)


def read_keras_weights(network: "keras.Model", path: Path) -> None:
    """Weights or a whole model of Keras: layers in the order of the network's, whatever their names; all must fit."""
    try:
        network.load_weights(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. Name another.") from None
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a Keras file of this network ({reason}). Take another.") from error


def load_network(path: Path) -> "tuple[keras.Model, Config]":
    """(network, its Config) of a checkpoint."""
    from lung_nodule_nasnet import quiet  # noqa: F401
    from lung_nodule_nasnet.nasnet_v2 import build_network
    state, groups = load_checkpoint(path)
    config = config_from_dict(Config, state["config"], path)
    note_constants(state.get("constants"), CONSTANTS, path)
    network = build_network(config)
    set_weights(network, groups.get("weights", []), path)
    return network, config
