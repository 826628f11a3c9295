"""Does S-Net learn as well in bfloat16 as in float32? Loss and validation Dice of each epoch.

    python -m tests.bench.snet_precision        20 minutes on 2 cores

A small phantom cohort; both precisions start from the same two seeds.
"""
import csv
import tempfile
from pathlib import Path

from shared_data.phantoms import write_neck_cohort
from snet_neck_ln import train
from snet_neck_ln.process_data import data_parser, data_process_lymph_node


def curves(folder, seeds=(1, 2), epochs=8, size=96):
    """{(precision, seed): rows of history.csv} on the same phantom cohort."""
    prepared = ["--prepared-dir", str(folder / "prepared")]
    write_neck_cohort(folder / "raw", patients=12, size=size, slices=20)
    data_process_lymph_node.main([*prepared, "--data-dir", str(folder / "raw")])
    data_parser.main(prepared)
    histories = {}
    for seed in seeds:
        for precision in ("32-true", "bf16-mixed"):
            run_dir = folder / f"{precision}-{seed}"
            train.main([*prepared, "--run-dir", str(run_dir), "--precision", precision, "--seed", str(seed), "--size",
                        str(size), "--batch-size", "8", "--lr", "1e-3", "--epochs", str(epochs), "--workers", "0"])
            with open(run_dir / "history.csv", newline="") as stream:
                histories[precision, seed] = list(csv.DictReader(stream))
    return histories


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for (precision, seed), history in curves(Path(folder)).items():
            for column in ("loss", "val_dice"):
                print(f"{precision:10s} seed {seed} {column:8s}",
                      " ".join(f"{float(row[column]):.4f}" for row in history))
