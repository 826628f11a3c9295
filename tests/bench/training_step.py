"""A training step of each PyTorch project by precision and memory layout: its time, and its effect on the loss.

    python -m tests.bench.training_step [--project sepnet] [--device cuda] [--compile] [--rounds 10]

Uses the papers' sizes on a GPU, smaller batches (FocusNet: patches) on a CPU, and bfloat16 on a CPU only if it has the
instructions. All variants start from the same weights, train on the same batch and take turns. Prints the shortest time
of the float32 step over the variant's, and the variant's last loss over float32's. RetroLN is not included, since
nnU-Net itself decides on these things.
"""
import argparse
import time
from functools import partial

import torch

from focusnet_v2.config import Config as FocusNetConfig
from focusnet_v2.losses import backbone_loss
from focusnet_v2.networks import build_network as build_focusnet
from sepnet.config import Config as SepNetConfig
from sepnet.losses import build_loss
from sepnet.networks import build_network as build_sepnet
from shared_data.settings import device_there
from shared_torch.devices import choose_precision
from snet_neck_ln.losses import snet_loss
from snet_neck_ln.networks import SNet
from tests.bench.arithmetic import multiply, operations
from tests.bench.measured import shortest


def snet(on_gpu):
    image, target = ball((1, 384, 384), 16 if on_gpu else 2)
    return SNet(), 5e-5, image[:, :, 0], target.float(), sum_of_snet_losses


def sum_of_snet_losses(outputs, mask):
    return sum(snet_loss([part.float() for part in outputs], mask).values())


def focusnet(on_gpu):
    config = FocusNetConfig()
    return (build_focusnet(config, "backbone"), 1e-3, *ball(config.patch_zyx if on_gpu else (16, 96, 96), 1),
            lambda logits, target: sum(backbone_loss(logits.float(), target, config.alpha).values()))


def sepnet(on_gpu):
    config = SepNetConfig()
    patches = ball(config.patch_zyx, config.batch_size if on_gpu else 1)
    return build_sepnet(config), config.lr, *patches, build_loss(config)


def ball(shape_zyx, batch_size):
    """Noisy patches (B, 1, Z, Y, X) and the one organ in them (B, Z, Y, X)."""
    place = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape_zyx),
                                       indexing="ij"))
    target = (place.square().sum(0) < 0.25).long().expand(batch_size, *shape_zyx)
    return target[:, None] + 0.3 * torch.randn(batch_size, 1, *shape_zyx), target


PROJECTS = {"snet": snet, "focusnet": focusnet, "sepnet": sepnet}


def variants(device, compiled):
    """{name: (bfloat16, channels last, TF32, compiled)}"""
    found = {"float32": (False, False, False, False), "float32, channels-last": (False, True, False, False)}
    if choose_precision("auto", device) == "bf16-mixed" or device.type == "cuda":
        found |= {"bfloat16": (True, False, False, False), "bfloat16, channels-last": (True, True, False, False)}
    if device.type == "cuda":
        found |= {"TF32": (False, False, True, False), "TF32, channels-last": (False, True, True, False)}
    if compiled:
        found |= {f"{name}, compiled": (*settings[:3], True) for name, settings in found.items()}
    return found


def default_variant(project):
    """What train.py picks on this CPU."""
    bf16 = choose_precision("auto", torch.device("cpu")) == "bf16-mixed"
    return "bfloat16, channels-last" if bf16 else "float32, channels-last" if project == "snet" else "float32"


def measure(project, device, compiled=False, rounds=3, only=None):
    """{variant: (shortest seconds of a step, last loss)}; only: names of variants."""
    steps = {}
    for name, variant in variants(device, compiled).items():
        if only and name not in only:
            continue
        torch.manual_seed(0)
        steps[name] = training_step(*PROJECTS[project](device.type == "cuda"), device, *variant)
    seconds, losses = {name: [] for name in steps}, {}
    for _ in range(rounds + 1):  # one to warm up
        for name, step in steps.items():
            torch.manual_seed(1)  # the same dropout for all
            start = time.perf_counter()
            losses[name] = step().item()
            seconds[name].append(time.perf_counter() - start)
    return {name: (min(seconds[name][1:]), losses[name]) for name in steps}


def training_step(network, lr, image, target, loss_of, device, bf16, channels_last, tf32=False, compiled=False):
    """A function that does one update and returns the loss."""
    layout = torch.contiguous_format if not channels_last else (
        torch.channels_last if image.ndim == 4 else torch.channels_last_3d)
    network, target = network.to(device, memory_format=layout), target.to(device)
    image = image.to(device).contiguous(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    forward = torch.compile(network) if compiled else network

    def step():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            outputs = forward(image)
        loss = loss_of(outputs, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def run():
    """{what: ratio} of the steps' times on a CPU."""
    ratios = {}
    for project in PROJECTS:
        steps = measure(project, torch.device("cpu"))
        ratios |= {f"{project}: float32 step / {name}": steps["float32"][0] / seconds
                   for name, (seconds, _) in steps.items() if name != "float32"}
        count = operations(training_step(*PROJECTS[project](False), torch.device("cpu"), False, False))
        ratios |= {f"{project}: float32 step / matrices in {dtype}": steps["float32"][0] / shortest(
            partial(multiply, count, getattr(torch, dtype)), 3) for dtype in ("float32", "bfloat16") if dtype in steps}
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", choices=PROJECTS, nargs="+", default=list(PROJECTS))
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--compile", action="store_true", help="each variant compiled, too (minutes)")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    device = torch.device(device_there(options.device, {"cuda": torch.cuda.is_available(), "cpu": True}))
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, PyTorch {torch.__version__}")
    for project in options.project:
        steps = measure(project, device, options.compile, options.rounds)
        base_seconds, base_loss = steps["float32"]
        for name, (seconds, loss) in steps.items():
            print(f"{project:9s} {name:34s} {seconds:8.4f} s  {base_seconds / seconds:6.2f} times  "
                  f"loss {loss:.4f}, {loss / base_loss:.3f} of float32's", flush=True)


if __name__ == "__main__":
    main()
