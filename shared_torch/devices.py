"""Choose what networks run on, and in which precision."""
import logging
from contextlib import AbstractContextManager
from shutil import which
from typing import TYPE_CHECKING, Literal

import torch

from shared_data.errors import InputError
from shared_data.settings import Machines, Precision, device_there

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Chosen = Literal["32-true", "bf16-mixed", "16-mixed"]  # a `Precision` without "auto"
DTYPES: dict[str, torch.dtype | None] = {
    "32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of `autocast`
AMPERE = 8  # first generation of NVIDIA GPUs with bfloat16


def choose_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "mps". Raises InputError when this machine does not have it."""
    return torch.device(device_there(name, {
        "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}))


def choose_precision(name: Precision, device: torch.device) -> Chosen:
    """`name`, or for "auto": bf16-mixed if the device has instructions for it, 16-mixed on older NVIDIA GPUs, otherwise
    32-true."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= AMPERE else "16-mixed"
    cpu = torch.cpu.get_capabilities()
    has_bfloat16 = device.type == "cpu" and (cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
    return "bf16-mixed" if has_bfloat16 else "32-true"


def choose_prediction_precision(name: Precision, device: torch.device) -> Chosen:
    """`name`, or for "auto": 16-mixed on NVIDIA GPUs, otherwise 32-true. bfloat16 changes masks too much
    (tests/bench/RESULTS.md)."""
    if name != "auto":
        return name
    return "16-mixed" if device.type == "cuda" else "32-true"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Context of a forward pass in a precision from `choose_precision`. Raises ValueError for any other, also "auto".
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is none of {', '.join(DTYPES)}")
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "32-true")


def check_finite(output: torch.Tensor, precision: str) -> None:
    """Raise InputError for what a network has given in float16 if it left float16's range."""
    if precision == "16-mixed" and not output.isfinite().all():
        raise InputError("the network's values leave the range of float16 on this CT. Take --precision 32-true.")


def quickest_layout(network: torch.nn.Module, device: torch.device, precision: str) -> None:
    """Make a 3-D network channels-last, in place, where that is faster: on NVIDIA GPUs, and in bfloat16 on CPUs
    (tests.bench.training_step)."""
    if device.type == "cuda" or (precision == "bf16-mixed" and device.type == "cpu"):
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's types lack it


def compile_for_training(network: torch.nn.Module) -> None:
    """torch.compile in place, which keeps the names in checkpoints. Raises InputError without a C++ compiler."""
    if not any(map(which, ("g++", "clang++", "c++", "cl"))):
        raise InputError("--compile needs a C++ compiler (g++ or clang++); there is none on the PATH. Leave it out.")
    network.compile()


def start_fabric(config: Machines, device: torch.device, precision: Chosen) -> "Fabric":
    """Launch Fabric on the devices and machines of the settings; other processes start here."""
    from lightning_fabric import Fabric  # prediction does without

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, which cuDNN's convolutions use anyway
    fabric = Fabric(accelerator=device.type, devices=config.devices, num_nodes=config.num_nodes,
                    strategy="ddp" if config.devices * config.num_nodes > 1 else "auto",
                    precision=precision)
    fabric.launch()
    return fabric
