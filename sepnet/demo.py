"""The whole of SepNet on a phantom cohort, from CTs to pictures: python demo.py

Small slices, a narrow network, two members; everything is written to demo/sepnet. At 4 mm some organs have only a
handful of voxels: the loss as the paper writes it finds them sooner than that of the authors' code, which smooths by
22.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepnet import predict, preprocess, test, train
from sepnet.config import ROOT, Config
from shared_data.errors import run_script
from shared_data.files import fresh_folder
from shared_data.phantoms import write_structseg_cohort
from shared_data.settings import parse_options


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "sepnet"  # the default is emptied first; any other must be empty
    patients: int = 20  # phantom patients: 16 to train on, 4 to score
    epochs: int = 12  # of 30 updates, for each member
    size: int = 48  # pixels along x and y, divisible by 16
    seed: int = Config.seed  # of weights, sampling and augmentation; the phantoms stay the same

    def __post_init__(self) -> None:
        if self.patients < 2 or self.epochs < 1 or self.size % 16 or not 32 <= self.size <= 512:
            raise ValueError("--patients must be at least 2, --epochs 1, --size divisible by 16 in 32..512.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    fresh_folder(options.folder, Options.folder)
    raw, runs = options.folder / "raw", options.folder / "runs"
    write_structseg_cohort(raw, options.patients, size=options.size, slices=24)
    size = str(options.size)
    prepared = ["--prepared-dir", str(options.folder / "prepared")]
    small = ["--patch-zyx", "16", size, size, "--batch-size", "2", "--base-channels", "8", "--normalisation", "paper",
             "--lr", "1e-2", "--epochs", str(options.epochs), "--steps-per-epoch", "30", "--workers", "0",
             "--precision", "32-true", "--seed", str(options.seed)]
    preprocess.main(["--data-dir", str(raw), *prepared, "--crop-size", size])
    for transform, alpha in (("multi_thresh_1", "0.5"), ("multi_thresh_2", "1")):
        train.main([*prepared, *small, "--transform", transform, "--alpha", alpha,
                    "--run-dir", str(runs / f"{transform}_alpha{alpha}")])
    test.main(["--run-dir", str(runs), "--window-step", "4"])
    checkpoints = [str(path) for path in sorted(runs.glob("*/best.pt"))]
    predict.main(["--input", str(raw / str(options.patients) / "data.nii.gz"), "--output",
                  str(options.folder / "labels.nii.gz"), "--checkpoint", *checkpoints, "--window-step", "4"])
    for name in ("runs/valid/report.html", "runs/valid/error_rate.png", "labels_overlay.png"):
        print(f"look at {options.folder / name}")


if __name__ == "__main__":
    run_script(main)
