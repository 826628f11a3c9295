"""What networks run on, and in which precision."""
import logging
from contextlib import AbstractContextManager
from shutil import which
from typing import TYPE_CHECKING, Literal

import torch

from shared_data.errors import InputError
from shared_data.settings import Machines, Precision, device_there

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Chosen = Literal["32-true", "bf16-mixed", "16-mixed"]  # what a `Precision` comes to
DTYPES: dict[str, torch.dtype | None] = {
    "32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of `autocast`
AMPERE = 8  # first generation of NVIDIA GPUs with bfloat16


def choose_device(name: str) -> torch.device:
    """Of "auto", "cpu", "cuda" or "mps". Raises InputError when it is not there."""
    return torch.device(device_there(name, {
        "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}))


def choose_precision(name: Precision, device: torch.device) -> Chosen:
    """Fabric's precision for "auto": bf16-mixed where the device has instructions for it, on older NVIDIA GPUs
    16-mixed, else 32-true."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= AMPERE else "16-mixed"
    able = torch.cpu.get_capabilities()
    fast = device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16"))
    return "bf16-mixed" if fast else "32-true"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context of a forward pass in a precision that `choose_precision` gives; another is a ValueError, "auto", too."""
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is none of {', '.join(DTYPES)}")
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "32-true")


def quickest_layout(network: torch.nn.Module, device: torch.device, precision: str) -> None:
    """Channels-last for a 3-D network that trains in bfloat16 on a CPU, in place: tests.bench.training_step."""
    if precision == "bf16-mixed" and device.type == "cpu":
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's types lack it


def compile_for_training(network: torch.nn.Module) -> None:
    """torch.compile in place, so that checkpoints keep their names. Raises InputError without a C++ compiler."""
    if not any(map(which, ("g++", "clang++", "c++", "cl"))):
        raise InputError("--compile needs a C++ compiler (g++ or clang++); there is none on the PATH. Leave it out.")
    network.compile()


def start_fabric(config: Machines, device: torch.device, precision: Chosen) -> "Fabric":
    """Fabric on the devices and machines of the settings; the other processes start here."""
    from lightning_fabric import Fabric  # what predicts needs it not

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it already
    fabric = Fabric(accelerator=device.type, devices=config.devices, num_nodes=config.num_nodes,
                    strategy="ddp" if config.devices * config.num_nodes > 1 else "auto",
                    precision=precision)
    fabric.launch()
    return fabric
