"""Checkpoints of nnU-Net, the authors' among them, as networks: loading never executes code from the file."""
import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from retroln_nnunet.config import Config
from retroln_nnunet.plans import published_plans
from shared_data.checkpoints import read_archive
from shared_data.errors import InputError
from shared_torch.checkpoints import load_strictly

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
    weights = weights if isinstance(weights, dict) else {}
    names = {str(key).removeprefix("module.").removeprefix("_orig_mod."): key for key in weights}
    if len(names) < len(weights):
        raise InputError(f"{where}: a tensor stands there twice, with and without a prefix. Take another checkpoint.")
    load_strictly(network, {name: weights[key] for name, key in names.items()}, where, names)
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
    def load(path):
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)

    state = read_archive(path, load)
    if not (bare or {"network_weights", "trainer_name", "init_args"} <= state.keys()):
        raise InputError(f"{path}: not a checkpoint of nnU-Net. Name checkpoint_final.pth of a fold.")
    return state
