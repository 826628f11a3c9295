"""Checkpoints of nnU-Net, the authors' among them, as networks: loading never executes code from the file."""
import zipfile

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from retroln_nnunet.config import Config
from retroln_nnunet.plans import published_plans
from shared_data.errors import InputError
from shared_data.files import check_archive

# nnU-Net keeps its log in NumPy numbers: data, not code. Before NumPy 2 they had another address.
SCALAR = np._core.multiarray.scalar
NUMBERS = [SCALAR, (SCALAR, "numpy.core.multiarray.scalar"), np.dtype,
           *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]


def load_original_checkpoint(source, n_classes=2, base_features=32, where=None):
    """The network (eval mode, logits at full resolution) with the weights of a checkpoint of nnU-Net v2.

    source: path of a .pth, or its content, or a bare state dict; keys with or without `module.` or `_orig_mod.`. The
    architecture is that of the plans in the checkpoint; without them the published one, of these numbers. where: how
    errors call the source.
    Raises InputError naming the key when a tensor is unknown, absent or of another shape.
    """
    where = where or ("the state dict" if isinstance(source, dict) else source)
    state = source if isinstance(source, dict) else read_checkpoint(source, bare=True)
    plans, configuration, dataset = _plans_in(state, where)
    if plans is None:
        plans = published_plans({"configurations": {"3d_fullres": {}}}, Config(base_features=base_features))
        network = build_network(PlansManager(plans), "3d_fullres", 1, n_classes)
    else:
        manager = PlansManager(plans)
        n_channels = determine_num_input_channels(manager, manager.get_configuration(configuration), dataset)
        network = build_network(manager, configuration, n_channels,
                                manager.get_label_manager(dataset).num_segmentation_heads)
    weights = state.get("network_weights", state)
    load_strictly(network, weights if isinstance(weights, dict) else {}, where)
    return network.eval()


def _plans_in(state, where):
    """(plans, configuration, dataset.json) of a checkpoint; three None of a bare state dict."""
    if "init_args" not in state:
        return None, None, None
    try:
        arguments = state["init_args"]
        plans, configuration, dataset = (arguments[name] for name in ("plans", "configuration", "dataset_json"))
        if configuration in plans["configurations"] and dataset["labels"] and dataset["channel_names"]:
            return plans, configuration, dataset
    except (KeyError, TypeError):
        pass
    raise InputError(f"{where}: its plans are missing or damaged. Name another checkpoint.")


def build_network(manager, configuration, n_channels, n_classes):
    """The network of a PlansManager: (B, n_channels, Z, Y, X) -> logits (B, n_classes, Z, Y, X)."""
    return nnUNetTrainer.build_network_architecture(manager, manager.get_configuration(configuration), n_channels,
                                                    n_classes, enable_deep_supervision=False)


def read_checkpoint(path, bare=False):
    """The dict in nnU-Net's .pth, ours or the authors'. Raises InputError for anything else.

    bare: a state dict alone will do.
    """
    try:
        check_archive(path)
        with torch.serialization.safe_globals(NUMBERS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. Train first, or name another.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder. Name the checkpoint in it, checkpoint_final.pth say.") from None
    except PermissionError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead to
        why = "holds more than plain tensors" if "weights_only" in str(error).lower() else "damaged"
        if not zipfile.is_zipfile(path):
            why = "damaged, or no checkpoint"
        raise InputError(f"{path}: {why}. Copy it again, or name another.") from error
    if not isinstance(state, dict) or not (bare or {"network_weights", "trainer_name", "init_args"} <= state.keys()):
        raise InputError(f"{path}: not a checkpoint of nnU-Net. Name checkpoint_final.pth of a fold.")
    return state


def load_strictly(network, weights, where):
    """Load every tensor; an unknown, absent, misshapen one, or one not finite, raises InputError with its name."""
    own, names = network.state_dict(), {}
    for key in weights:
        names.setdefault(str(key).removeprefix("module.").removeprefix("_orig_mod."), key)
    for name, key in names.items():
        tensor = weights[key]
        if name not in own or not torch.is_tensor(tensor):
            raise InputError(f"{where}: {key} has no place in the network of its plans. Is it another network's?")
        if own[name].shape != tensor.shape:
            raise InputError(f"{where}: {key} has shape {tuple(tensor.shape)}, its plans want "
                             f"{tuple(own[name].shape)}. Name another checkpoint.")
        if not tensor.isfinite().all():
            raise InputError(f"{where}: {key} holds values that are not numbers. Take another checkpoint.")
    absent = [name for name in own if name not in names]
    if absent:
        raise InputError(f"{where}: {absent[0]} is missing ({len(absent)} tensors in all). Is it another network's?")
    network.load_state_dict({name: weights[key] for name, key in names.items()})
