"""The whole of S-Net on a phantom cohort, from CTs to pictures: python demo.py

Small slices and few patients, but the full network; everything is written to demo/snet_neck_ln.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared_data.errors import run_script
from shared_data.files import fresh_folder
from shared_data.phantoms import write_neck_cohort
from shared_data.settings import parse_options
from snet_neck_ln import predict, test, train
from snet_neck_ln.config import ROOT, Config
from snet_neck_ln.process_data import data_parser, data_process_lymph_node


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "snet_neck_ln"  # the default is emptied first; any other must be empty
    patients: int = 42  # phantom patients: 31 to train on, 7 to validate, 4 to test
    epochs: int = 3  # passes over the training slices
    size: int = 112  # pixels along x and y
    seed: int = Config.seed  # of weights, sampling and augmentation; the phantoms stay the same

    def __post_init__(self) -> None:
        if self.patients < 3 or self.epochs < 1 or self.size % 4 or not 32 <= self.size <= 512:
            raise ValueError("--patients must be at least 3, --epochs 1, --size divisible by 4 in 32..512.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    fresh_folder(options.folder, Options.folder)
    raw, run = options.folder / "raw", options.folder / "run"
    write_neck_cohort(raw, options.patients, size=options.size, slices=16)
    prepared = ["--prepared-dir", str(options.folder / "prepared")]
    small = ["--size", str(options.size), "--batch-size", "8", "--lr", "4e-4", "--epochs", str(options.epochs),
             "--precision", "32-true", "--seed", str(options.seed)]
    data_process_lymph_node.main(["--data-dir", str(raw), *prepared])
    data_parser.main(prepared)
    train.main([*prepared, *small, "--run-dir", str(run)])
    test.main(["--run-dir", str(run)])
    predict.main(["--input", str(raw / "P1" / "IM0001.nrrd"), "--output", str(options.folder / "mask.nii.gz"),
                  "--checkpoint", str(run / "best.pt")])
    for name in ("run/test/report.html", "run/test/overlays/contact_sheet.png", "run/curves.png", "mask_overlay.png"):
        print(f"look at {options.folder / name}")


if __name__ == "__main__":
    run_script(main)
