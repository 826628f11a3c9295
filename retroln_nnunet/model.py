"""A trained nnU-Net from its checkpoint: loading never executes code from the file."""
import zipfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from shared_data.errors import InputError
from shared_data.files import read_json
from shared_data.volume import to_lps

# nnU-Net keeps its log in NumPy numbers: data, not code.
NUMBERS = [np._core.multiarray.scalar, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]


def choose_device(name):
    """torch.device of "auto", "cpu", "cuda" or "mps". Raises InputError when it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        raise InputError(f"--device {name}: none on this machine. "
                         f"Here: {', '.join(kind for kind, available in there.items() if available)}.")
    return torch.device(name)


def read_checkpoint(path):
    """The content of nnU-Net's .pth, ours or the authors'. Raises InputError for anything else."""
    try:
        with torch.serialization.safe_globals(NUMBERS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. Train first, or name another.") from None
    except Exception as error:  # torch.load raises whatever the bytes lead to
        why = "holds more than plain tensors" if "weights_only" in str(error).lower() else "damaged"
        if not zipfile.is_zipfile(path):
            why = "damaged, or no checkpoint"
        raise InputError(f"{path}: {why}. Copy it again, or name another.") from error
    if not isinstance(state, dict) or not {"network_weights", "trainer_name", "init_args"} <= state.keys():
        raise InputError(f"{path}: not a checkpoint of nnU-Net. Name checkpoint_final.pth of a fold.")
    return state


def load_predictor(path, device, mirror=True, step=0.5):
    """nnU-Net's predictor for one checkpoint; plans.json and dataset.json lie in the folder above it.

    Raises InputError when the network of the plans does not take the weights.
    """
    path = Path(path)
    state = read_checkpoint(path)
    plans, dataset = (read_json(path.parents[1] / name) for name in ("plans.json", "dataset.json"))
    manager = PlansManager(plans)
    configuration = manager.get_configuration(state["init_args"]["configuration"])
    network = nnUNetTrainer.build_network_architecture(
        manager, configuration, determine_num_input_channels(manager, configuration, dataset),
        manager.get_label_manager(dataset).num_segmentation_heads, enable_deep_supervision=False)
    try:
        network.load_state_dict(state["network_weights"])
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise InputError(f"{path}: does not fit its plans.json ({lines[1 if len(lines) > 1 else 0].strip()[:160]}). "
                         "Name the checkpoint that belongs to them.") from error
    predictor = nnUNetPredictor(tile_step_size=step, use_mirroring=mirror, device=device, allow_tqdm=False,
                                perform_everything_on_device=device.type == "cuda")
    predictor.manual_initialization(network, manager, configuration, [state["network_weights"]], dataset,
                                    state["trainer_name"], state.get("inference_allowed_mirroring_axes"))
    return predictor


def predict_crop(predictor, crop):
    """The mask (uint8 image) of a normalised crop, on its grid; the network sees it in LPS, as in training."""
    turned = to_lps(crop)
    labels = predictor.predict_single_npy_array(sitk.GetArrayFromImage(turned)[None],
                                                {"spacing": list(turned.GetSpacing()[::-1])})
    mask = sitk.GetImageFromArray(labels.astype(np.uint8))
    mask.CopyInformation(turned)
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(crop.GetDirection())
    mask = sitk.DICOMOrient(mask, code)
    mask.CopyInformation(crop)
    return mask
