"""A trained nnU-Net at work: its device, its settings, its masks."""
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from retroln_nnunet.original_checkpoint import load_original_checkpoint, read_checkpoint
from shared_data.errors import InputError
from shared_data.named_types import Floats, StrPath, Values
from shared_data.volume import check_same_grid, geometry, image_from, to_lps
from shared_results.ensembles import find_members
from shared_results.sweep import without_small


def run_settings(state: dict[str, Any], path: StrPath) -> Values:
    """The settings that our trainer left in a checkpoint, as plain values."""
    try:
        return dict(state["init_args"]["plans"]["retroln"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a checkpoint of nnUNetTrainerRetroLN; its settings are missing. "
                         "Start a new run.") from error


def trained_on(path: StrPath) -> list[str]:
    """The cases that a checkpoint has learnt from, as far as it says so (the authors' do not)."""
    return read_checkpoint(path)["init_args"]["dataset_json"].get("trained_on", [])


def load_predictor(path: StrPath, device: torch.device, mirror: bool = True) -> nnUNetPredictor:
    """nnU-Net's predictor for one checkpoint, ours or the authors'; what it needs to know stands in the checkpoint.

    Raises InputError when its plans do not take the weights, or find something else than nodes in a CT.
    """
    state = read_checkpoint(path)
    arguments = state["init_args"]
    network = load_original_checkpoint(state, where=path)
    n_channels, n_classes = len(arguments["dataset_json"]["channel_names"]), len(arguments["dataset_json"]["labels"])
    if (n_channels, n_classes) != (1, 2):
        raise InputError(f"{path}: {n_channels} channels and {n_classes} classes; one channel (CT) and two classes "
                         "(background, lymph) are needed. Name another checkpoint.")
    manager = PlansManager(arguments["plans"])
    with redirect_stdout(StringIO()):  # it says on a CPU that it is none
        predictor = nnUNetPredictor(use_mirroring=mirror, device=device, allow_tqdm=False,
                                    perform_everything_on_device=device.type == "cuda")
    predictor.manual_initialization(network, manager, manager.get_configuration(arguments["configuration"]),
                                    [network.state_dict()], arguments["dataset_json"], state["trainer_name"],
                                    state.get("inference_allowed_mirroring_axes"))
    return predictor


def predict_crop(predictor: nnUNetPredictor, crop: sitk.Image) -> sitk.Image:
    """The mask (uint8 image) of a normalised crop, on its grid; the network sees it in LPS, as in training."""
    turned = to_lps(crop)
    labels = predictor.predict_single_npy_array(sitk.GetArrayFromImage(turned)[None],
                                                {"spacing": list(turned.GetSpacing()[::-1])})
    mask = sitk.GetImageFromArray(labels.astype(np.uint8))
    mask.CopyInformation(turned)
    return turned_like(mask, crop)


def predict_members(predictors: Sequence[nnUNetPredictor], crop: sitk.Image, threshold: float | None = None,
                    look: Callable[[Floats], object] | None = None) -> tuple[sitk.Image, list[sitk.Image] | None]:
    """(mask, votes) of predictors asked together, images on the crop's grid: where the mean of their probabilities says
    node, and each one's own mask; of one predictor its mask and None. One sum is kept.

    threshold: probability that makes a node; unset: nnU-Net's own labels, and a half of the mean. look: gets the mean
    probability of node, (z, y, x) of the crop in LPS.
    """
    if len(predictors) == 1 and threshold is None and look is None:
        return predict_crop(predictors[0], crop), None
    turned, votes = to_lps(crop), []
    total: Any = 0  # an array after the first predictor
    for predictor in predictors:
        labels, probability = predictor.predict_single_npy_array(
            sitk.GetArrayFromImage(turned)[None], {"spacing": list(turned.GetSpacing()[::-1])},
            save_or_return_probabilities=True)
        total += probability[1]
        votes.append(labels if threshold is None else probability[1] > threshold)
    if look:
        look(total / len(predictors))
    images = []
    together = total > len(predictors) * (threshold or 0.5) if len(votes) > 1 else votes[0]
    for labels in (together, *votes):
        image = sitk.GetImageFromArray(labels.astype(np.uint8))
        image.CopyInformation(turned)
        images.append(turned_like(image, crop))
    return images[0], images[1:] if len(votes) > 1 else None


def without_small_parts(mask: sitk.Image, smallest_ml: float) -> sitk.Image:
    """A mask without components smaller than `smallest_ml`."""
    if not smallest_ml:
        return mask
    large = without_small(sitk.GetArrayFromImage(mask) > 0, math.prod(mask.GetSpacing()) / 1000, smallest_ml)
    return image_from(large.astype(np.uint8), geometry(mask))


def find_folds(folder: Path) -> list[Path]:
    """checkpoint_final.pth of every fold of a trainer's folder, or of the only one below an --nnunet-dir."""
    found = find_members(folder, "fold_*/checkpoint_final.pth", "nnUNet_results/*/*/fold_*/checkpoint_final.pth")
    models = sorted({path.parents[1] for path in found})
    if len(models) > 1:
        raise InputError(f"{folder}: folds of {len(models)} plans or trainers. Name one of "
                         f"{', '.join(map(str, models))}.")
    return found


def load_members(paths: Iterable[StrPath], device: torch.device, mirror: bool) -> list[nnUNetPredictor]:
    return [load_predictor(path, device, mirror) for path in paths]


def turned_like(mask: sitk.Image, crop: sitk.Image) -> sitk.Image:
    """A mask in another axis order of the crop's grid, in that of the crop."""
    mask = sitk.DICOMOrient(mask, sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(crop.GetDirection()))
    check_same_grid(crop, mask, "the prediction")
    mask.CopyInformation(crop)
    return mask
