"""The paper's claims, as far as a phantom cohort and a CPU can test them.

    python -m tests.bench.sepnet_claims --claim parameters                 SepNet over U-Net
    python -m tests.bench.sepnet_claims --claim hard-voxels --seeds 3      AttentionExpDice against ExpDice
    python -m tests.bench.sepnet_claims --claim slf --seeds 3              SLF against a plain window
    python -m tests.bench.sepnet_claims --claim error-rate                 six members: error rate against vote entropy

The last three train small networks on 8 of 10 phantom patients and score the other 2; each training takes about two
minutes on one core. Same seeds, same steps; the loss is normalised as in the paper, unless --normalisation original.
"""
import argparse
import csv
import json
import statistics
import tempfile
from pathlib import Path

from sepnet import preprocess, test, train
from sepnet.networks import SepNet, UNet3D
from shared_data.phantoms import write_structseg_cohort

CLAIMS = {"hard-voxels": {"AttentionExpDice": [], "ExpDice": ["--loss", "exp_dice"]},
          "slf": {"SLF": [], "plain window": ["--transform", "single_window"]}}
SMALL = ["--patch-zyx", "16", "48", "48", "--batch-size", "2", "--base-channels", "8", "--lr", "1e-2",
         "--undrawn", "original"]  # the published loss alone


def run():
    """{name: ratio}"""
    parameters = [sum(p.numel() for p in network.parameters()) for network in (SepNet(), UNet3D())]
    return {"parameters of SepNet / 3-D U-Net, width 24": parameters[0] / parameters[1]}


def prepare(folder):
    """A phantom cohort, prepared; the options that name it."""
    prepared = ["--prepared-dir", str(folder / "prepared"), "--workers", "0"]
    write_structseg_cohort(folder / "raw", patients=10, size=48, slices=24)
    preprocess.main([*prepared, "--data-dir", str(folder / "raw"), "--crop-size", "48", "--plain-window"])
    return prepared


def compare(claim, folder, seeds, training):
    """Print the Dice of each variant and seed, then mean and spread, and those of the difference."""
    cohort = prepare(folder)
    dice = {name: [] for name in CLAIMS[claim]}
    for seed in range(1, seeds + 1):
        for name, options in CLAIMS[claim].items():
            run_dir = folder / f"{name}-{seed}"
            train.main([*cohort, *SMALL, *training, "--run-dir", str(run_dir), "--seed", str(seed), *options])
            with open(run_dir / "history.csv", newline="") as stream:
                dice[name].append(float(list(csv.DictReader(stream))[-1]["val_dice"]))
            print(f"{name}, seed {seed}: Dice {dice[name][-1]:.4f}", flush=True)
    one, other = dice.values()
    for name, values in {**dice, " - ".join(dice): [a - b for a, b in zip(one, other)]}.items():
        spread = f" +- {statistics.stdev(values):.4f}" if seeds > 1 else ""
        print(f"{name}: {statistics.mean(values):.4f}{spread} ({' '.join(training)}, {seeds} seeds)")


def error_rates(folder, training):
    """Print the table of error rates of an ensemble of six; its plot and report stay in `folder`."""
    cohort = prepare(folder)
    train.main([*cohort, *SMALL, *training, "--all-members", "--run-dir", str(folder / "runs")])
    test.main(["--run-dir", str(folder / "runs")])
    for row in json.loads((folder / "runs" / "valid" / "summary.json").read_text())["error_rates"]:
        print(f"votes {row['votes']:12s} entropy {row['entropy']:7.4f}  voxels {row['voxels']:7d}  "
              f"error rate {row['error_rate']:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", choices=["parameters", *CLAIMS, "error-rate"], default="parameters")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of 30 steps")
    parser.add_argument("--normalisation", choices=["paper", "original"], default="paper")
    parser.add_argument("--folder", type=Path, help="where everything is kept; unset: nowhere")
    options = parser.parse_args()
    training = ["--epochs", str(options.epochs), "--steps-per-epoch", "30", "--validate-every", str(options.epochs),
                "--normalisation", options.normalisation]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        if options.claim == "parameters":
            print(run())
        elif options.claim == "error-rate":
            error_rates(folder, training)
        else:
            compare(options.claim, folder, options.seeds, training)
