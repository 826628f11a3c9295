"""The paper's claims on real patients, as far as a CPU can test them in hours: narrow networks, short trainings.

    python -m tests.bench.sepnet_claims --prepared-dir openkbp_prepared --runs-dir runs/claims [--seeds 1 2 3]
    python -m tests.bench.run sepnet_claims                 parameters of SepNet over U-Net, without data

SepNet against itself with a plain window instead of the SLF, with plain ExpDice instead of the hard-voxel weighting,
and against the 3-D U-Net with full convolutions: the same patients, seeds and number of updates. The score is the mean
Dice of the validation patients after the last epoch. OpenKBP, prepared with --plain-window; what is trained is kept,
and a training that was killed goes on. For the error rate by the members' disagreement see sepnet's crossval.py.
"""
import argparse
import math
import statistics
from pathlib import Path

from sepnet import train
from sepnet.networks import SepNet, UNet3D
from shared_data.files import read_table

VARIANTS = {"SepNet": [], "plain window": ["--transform", "single_window"], "ExpDice": ["--loss", "exp_dice"],
            "3-D U-Net": ["--network", "unet"]}
SETTINGS = ["--patch-zyx", "16", "64", "64", "--batch-size", "2", "--base-channels", "8", "--steps-per-epoch", "20",
            "--window-step", "8", "--workers", "0"]


def run():
    """{name: ratio}"""
    parameters = [sum(p.numel() for p in network.parameters()) for network in (SepNet(), UNet3D())]
    return {"parameters of SepNet / 3-D U-Net, width 24": parameters[0] / parameters[1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared-dir", type=Path, required=True)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=60, help="of 20 updates")
    options = parser.parse_args()
    dice = {name: [dice_of(name, seed, options) for seed in options.seeds] for name in options.variants}
    first, *others = dice
    print(f"\n{20 * options.epochs} updates, seeds {options.seeds}\n\n| | Dice | {first} - it |\n|---|---|---|")
    for name, values in dice.items():
        against = spread([a - b for a, b in zip(dice[first], values)]) if name in others else ""
        print(f"| {name} | {spread(values)} | {against} |")


def dice_of(name, seed, options):
    """The validation Dice after the last epoch of a variant, trained unless it is already."""
    run_dir = options.runs_dir / f"{name.replace(' ', '_')}-{seed}-{options.epochs}"
    history = run_dir / "history.csv"
    if not history.exists() or len(read_table(history, ["epoch"])) < options.epochs:
        run_dir.mkdir(parents=True, exist_ok=True)
        resume = ["--resume"] if (run_dir / "last.pt").exists() else []
        train.main([*SETTINGS, *resume, *VARIANTS[name], "--prepared-dir", str(options.prepared_dir), "--run-dir",
                    str(run_dir), "--seed", str(seed), "--epochs", str(options.epochs), "--validate-every",
                    str(options.epochs), "--lr-every", str(math.ceil(options.epochs / 12))])
    dice = float(read_table(history, ["val_dice"])[-1]["val_dice"])
    print(f"{name}, seed {seed}: Dice {dice:.4f}", flush=True)
    return dice


def spread(values):
    """Mean +- standard deviation (values)."""
    deviation = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation} ({', '.join(f'{value:.3f}' for value in values)})"


if __name__ == "__main__":
    main()
