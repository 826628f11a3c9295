"""Load checkpoints of the authors' code into our network."""
import re
from typing import Any

import torch

from shared_data.errors import InputError
from shared_data.named_types import StrPath
from shared_torch.checkpoints import load_strictly, read_checkpoint
from snet_neck_ln.networks import SNet

# The authors' names -> ours, applied in order.
RENAMES = [
    (r"^module\.", ""),
    (r"^conv1x\.conv1\.", "stem.0."), (r"^conv1x\.conv2\.", "stem.2."),
    (r"^conv2x\.(\d)\.conv\.", r"down1.\1."), (r"^conv4x\.(\d)\.conv\.", r"down2.\1."),
    (r"^conv4xd2\.(\d)\.conv\.", r"dilated.\1."),
    (r"^ASPP_(\d)\.norm_1\.", r"aspp.units.ASPP_\1.0."), (r"^ASPP_(\d)\.conv_1\.", r"aspp.units.ASPP_\1.2."),
    (r"^ASPP_(\d)\.norm_2\.", r"aspp.units.ASPP_\1.3."), (r"^ASPP_(\d)\.conv_2\.", r"aspp.units.ASPP_\1.5."),
    (r"ASPP_1", "0"), (r"ASPP_2", "1"), (r"ASPP_3", "2"), (r"ASPP_4", "3"),
    (r"^literal(\d)\.", r"decoder\1.lateral."), (r"^up(\d)\.conv\.0\.conv\.", r"decoder\1.block."),
    (r"^up(\d)\.ra_attn\.out_conv\.", r"decoder\1.attention.coarse."),
    (r"^up(\d)\.ra_attn\.aa_kernel\.conv(\d)\.conv\.", r"decoder\1.attention.axial.\2."),
    (r"^up(\d)\.ra_attn\.aa_kernel\.Hattn\.", r"decoder\1.attention.axial.2."),
    (r"^up(\d)\.ra_attn\.aa_kernel\.Wattn\.", r"decoder\1.attention.axial.3."),
    (r"^up(\d)\.ra_attn\.ra_conv1\.", r"decoder\1.attention.refine.0."),
    (r"^up(\d)\.ra_attn\.ra_conv2\.", r"decoder\1.attention.refine.1."),
    (r"^up(\d)\.ra_attn\.ra_conv3\.", r"decoder\1.attention.refine.2."),
    (r"\.bn_relu\.bn\.", ".1."), (r"\.bn_relu\.acti\.", ".2."), (r"(refine\.\d)\.conv\.", r"\1.0."),
    (r"^out_conv\.", "head."),
    (r"\.bn(\d)\.", r".norm\1."), (r"\.se\.conv\.", ".gate."),
    (r"\.gamma$", ".gain"), (r"\.(query|key|value)_conv\.conv\.", r".\1."),
]


def load_original_checkpoint(source: StrPath | dict[str, Any], axial_layout: str = "original") -> SNet:
    """An SNet in eval mode with weights from the authors' code.

    source: path of a `.pth`, or a state dict, plain or under "model"; keys with or without `module.`.
    Raises InputError, naming the key, for a tensor that is unknown, missing or of another shape.
    """
    where = "the state dict" if isinstance(source, dict) else source
    state = source if isinstance(source, dict) else read_checkpoint(source)
    state = state["model"] if isinstance(state.get("model"), dict) else state
    tensors = {}
    for key, tensor in state.items():
        ours = renamed(key)
        if ours in tensors or not torch.is_tensor(tensor):
            raise InputError(f"{where}: {key} is not a tensor of S-Net, or occurs twice.")
        tensors[ours] = tensor
    stem = tensors.get("stem.0.weight")
    if stem is None or stem.ndim != 4:
        raise InputError(f"{where}: not a checkpoint of S-Net (conv1x.conv1.weight is missing).")
    network = SNet(in_channels=stem.shape[1], axial_layout=axial_layout)
    load_strictly(network, tensors, where, {renamed(key): key for key in state})
    return network.eval()


def renamed(key: str) -> str:
    """Our name of a tensor, from the authors'."""
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
