"""CPU training of S-Net: float32, channels-last, bfloat16 autocast. Seconds of a step and loss curves, in one run.

    python -m tests.bench.snet_precision [--curves]

The steps are at full size (384x384). --curves also trains a small phantom cohort in float32 and in bf16-mixed from
the same seeds and prints the loss and the validation Dice of each epoch (20 minutes on 2 cores).
"""
import argparse
import csv
import tempfile
import time
from pathlib import Path

import torch

from shared_data.phantoms import write_neck_cohort
from snet_neck_ln import train
from snet_neck_ln.losses import snet_loss
from snet_neck_ln.networks import SNet
from snet_neck_ln.process_data import data_parser, data_process_lymph_node

VARIANTS = {"float32": (False, torch.contiguous_format), "float32, channels-last": (False, torch.channels_last),
            "bf16": (True, torch.contiguous_format), "bf16, channels-last": (True, torch.channels_last)}


def time_steps(batch_size=2, size=384, rounds=3):
    """{variant: seconds of a training step}, the fastest of `rounds`, variants taking turns."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch_size, 1, size, size, generator=generator)
    mask = (torch.rand(batch_size, 1, size, size, generator=generator) > 0.99).float()
    steps = {name: training_step(image, mask, *variant) for name, variant in VARIANTS.items()}
    seconds = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def training_step(image, mask, bf16=False, memory_format=torch.contiguous_format):
    """A function that does one update of a fresh network."""
    torch.manual_seed(0)
    network = SNet().to(memory_format=memory_format)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-5)
    image = image.contiguous(memory_format=memory_format)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = network(image)
        loss = sum(snet_loss([output.float() for output in outputs], mask).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def curves(folder, seeds=(1, 2), epochs=8, size=96):
    """{(precision, seed): rows of history.csv} on the same phantom cohort."""
    cohort = ["--data-dir", str(folder / "raw"), "--prepared-dir", str(folder / "prepared")]
    write_neck_cohort(folder / "raw", patients=12, size=size, slices=20)
    data_process_lymph_node.main(cohort)
    data_parser.main(cohort)
    histories = {}
    for seed in seeds:
        for precision in ("32-true", "bf16-mixed"):
            run_dir = folder / f"{precision}-{seed}"
            train.main([*cohort, "--run-dir", str(run_dir), "--precision", precision, "--seed", str(seed), "--size",
                        str(size), "--batch-size", "8", "--lr", "1e-3", "--epochs", str(epochs), "--workers", "0"])
            with open(run_dir / "history.csv", newline="") as stream:
                histories[precision, seed] = list(csv.DictReader(stream))
    return histories


def run(with_curves=False):
    seconds = time_steps()
    rows = {f"float32 step / {name} step": seconds["float32"] / value for name, value in seconds.items()}
    if with_curves:
        with tempfile.TemporaryDirectory() as folder:
            for (precision, seed), history in curves(Path(folder)).items():
                for column in ("loss", "val_dice"):
                    print(f"{precision:10s} seed {seed} {column:8s}",
                          " ".join(f"{float(row[column]):.4f}" for row in history))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", action="store_true")
    for name, ratio in run(parser.parse_args().curves).items():
        print(f"{name}: {ratio:.2f}")
