"""The paper's claims, as far as a phantom cohort and a CPU can show them.

    python -m tests.bench.sepnet_claims --claim parameters                 SepNet over U-Net
    python -m tests.bench.sepnet_claims --claim hard-voxels --seeds 3      AttentionExpDice against ExpDice
    python -m tests.bench.sepnet_claims --claim slf --seeds 3              SLF against a plain window

The last two train small networks on 10 phantom patients (8 to train), same seeds, same steps, and print the Dice on the
other 2: minutes for a run. Error rate against vote entropy: python -m sepnet.error_rate.
"""
import argparse
import csv
import statistics
import tempfile
from pathlib import Path

from sepnet import preprocess, train
from sepnet.networks import SepNet, UNet3D
from shared_data.phantoms import write_structseg_cohort

CLAIMS = {"hard-voxels": {"AttentionExpDice": [], "ExpDice": ["--loss", "exp_dice"]},
          "slf": {"SLF": [], "plain window": ["--transform", "single_window"]}}


def run():
    """{name: ratio}"""
    parameters = [sum(p.numel() for p in network.parameters()) for network in (SepNet(), UNet3D())]
    return {"parameters of SepNet / 3-D U-Net, width 24": parameters[0] / parameters[1]}


def compare(claim, folder, seeds, steps):
    """Print the Dice of each variant and seed, then mean and spread, and those of the difference."""
    cohort = ["--data-dir", str(folder / "raw"), "--prepared-dir", str(folder / "prepared"), "--crop-size", "48"]
    write_structseg_cohort(folder / "raw", patients=10, size=48, slices=24)
    preprocess.main([*cohort, "--plain-window", "--workers", "0"])
    dice = {name: [] for name in CLAIMS[claim]}
    for seed in range(1, seeds + 1):
        for name, options in CLAIMS[claim].items():
            run_dir = folder / f"{name}-{seed}"
            train.main([*cohort, "--run-dir", str(run_dir), "--seed", str(seed), "--epochs", "1", "--steps-per-epoch",
                        str(steps), "--patch-zyx", "16", "48", "48", "--batch-size", "2", "--base-channels", "8", "--lr",
                        "3e-3", "--workers", "0", *options])
            with open(run_dir / "history.csv", newline="") as stream:
                dice[name].append(float(list(csv.DictReader(stream))[-1]["val_dice"]))
            print(f"{name}, seed {seed}: Dice {dice[name][-1]:.4f}", flush=True)
    one, other = dice.values()
    for name, values in {**dice, " - ".join(dice): [a - b for a, b in zip(one, other)]}.items():
        spread = f" +- {statistics.stdev(values):.4f}" if seeds > 1 else ""
        print(f"{name}: {statistics.mean(values):.4f}{spread} ({steps} steps, {seeds} seeds)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", choices=["parameters", *CLAIMS], default="parameters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    options = parser.parse_args()
    if options.claim == "parameters":
        print(run())
    else:
        with tempfile.TemporaryDirectory() as folder:
            compare(options.claim, Path(folder), options.seeds, options.steps)
