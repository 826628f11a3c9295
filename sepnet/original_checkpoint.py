"""Load checkpoints of the authors' code into our networks."""
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

from sepnet.networks import EncoderDecoder, SepNet, UNet3D
from shared_data.errors import InputError
from shared_data.named_types import StrPath
from shared_torch.checkpoints import load_strictly, read_checkpoint

# The authors' names -> ours, applied in order.
RENAMES = {
    "sepnet": [
        (r"^module\.", ""),
        (r"^conv1\.", "encoder.0."), (r"^conv2\.", "encoder.1."), (r"^conv3\.", "encoder.2."),
        (r"^conv4\.", "bottom.0."), (r"^conv5\.", "bottom.1."),
        (r"^conv6_(\d)\.", r"decoder.0.C\1."), (r"^conv7_(\d)\.", r"decoder.1.C\1."),
        (r"^conv8_(\d)\.", r"decoder.2.C\1."), (r"C1", "0"), (r"C2", "1"),
        (r"\.Input\.", ".shortcut."), (r"\.model\.conv1_1_depth\.Conv\.", ".main.0."),
        (r"\.model\.conv1_1_depth_deep\.Conv\.", ".main.3."), (r"\.model\.conv1_2_depth\.Conv\.", ".main.6."),
        (r"\.model\.conv1_3_depth\.Conv\.", ".main.9."), (r"^classification\.", "classify."),
    ],
    "unet": [
        (r"^module\.", ""),
        (r"^conv1_(\d)\.", r"encoder.0.C\1."), (r"^conv2_(\d)\.", r"encoder.1.C\1."),
        (r"^conv3_(\d)\.", r"encoder.2.C\1."), (r"^conv4_(\d)\.", r"bottom.C\1."),
        (r"^conv5_(\d)\.", r"decoder.0.C\1."), (r"^conv6_(\d)\.", r"decoder.1.C\1."),
        (r"^conv7_(\d)\.", r"decoder.2.C\1."), (r"C1", "0"), (r"C2", "1"),
        (r"\.model\.conv1_1\.Conv\.", ".0."), (r"^classification\.1\.", "classify.2."),
    ],
}


def load_original_checkpoint(source: StrPath | dict[str, Any], kind: Literal["sepnet", "unet"] = "sepnet",
                             base_channels: int = 24, n_classes: int = 23,
                             separate_direction: str = "axial") -> EncoderDecoder:
    """A SepNet or UNet3D in eval mode with weights from the authors' code.

    source: path of a `.pkl`, or a state dict, plain or under "model"; keys with or without `module.`.
    Raises InputError, naming the key, for a tensor that is unknown, missing or of another shape.
    """
    if kind not in RENAMES:
        raise InputError(f"kind {kind!r} is unknown. Valid: {', '.join(RENAMES)}.")
    where = "the state dict" if isinstance(source, dict) else source
    state = source if isinstance(source, dict) else read_checkpoint(source)
    state = state["model"] if isinstance(state.get("model"), dict) else state
    tensors = {}
    for key, tensor in state.items():
        ours = renamed(key, kind)
        if ours in tensors or not torch.is_tensor(tensor):
            raise InputError(f"{where}: {key} is not a tensor of {kind}, or occurs twice.")
        tensors[ours] = tensor
    network = (UNet3D(n_classes, base_channels) if kind == "unet"
               else SepNet(n_classes, base_channels, separate_direction))
    load_strictly(network, tensors, where, {renamed(key, kind): key for key in state})
    return network.eval()


def guess_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """{"kind", "base_channels", "n_classes", "separate_direction"} that fit a state dict of the authors.

    Raises InputError for any other state dict.
    """
    shapes = {re.sub(r"^module\.", "", key): tuple(value.shape) for key, value in state.items()
              if torch.is_tensor(value)}
    try:
        if "conv1.Input.weight" in shapes:
            kernel = shapes["conv1.model.conv1_1_depth.Conv.weight"][2:]
            return {"kind": "sepnet", "base_channels": shapes["conv1.Input.weight"][0] // 2,
                    "n_classes": shapes["classification.2.weight"][0],
                    "separate_direction": ("axial", "sagittal", "coronal")[kernel.index(1)]}
        return {"kind": "unet", "base_channels": shapes["conv1_1.model.conv1_1.Conv.weight"][0],
                "n_classes": shapes["classification.1.weight"][0], "separate_direction": "axial"}
    except (KeyError, ValueError, IndexError):
        raise InputError("not a checkpoint of SepNet or of its U-Net. Name one of this project's or the authors'."
                         ) from None


def renamed(key: str, kind: str) -> str:
    """Our name of a tensor, from the authors'."""
    for pattern, replacement in RENAMES[kind]:
        key = re.sub(pattern, replacement, key)
    return key
