"""NASNet-GCN from nothing to pictures on phantom chests: python demo.py

Trains on phantoms in LIDC-IDRI's layout, scores whole scans in LUNA16's layout that training has not seen. Small slices
and a narrow network; everything lands in demo/lung_nodule_nasnet.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lung_nodule_nasnet import predict, preprocess, slice_idx, table, test, train
from lung_nodule_nasnet.config import ROOT, Config
from shared_data.errors import run_script
from shared_data.files import fresh_folder
from shared_data.phantoms_chest import write_lidc_cohort, write_luna_cohort
from shared_data.settings import parse_options


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "lung_nodule_nasnet"  # the default is made anew; another must be empty
    patients: int = 16  # phantom patients to train and validate on
    scans: int = 6  # phantom scans to test on
    epochs: int = 9  # passes over the training slices
    size: int = 128  # pixels along a side of the network's input
    seed: int = Config.seed  # of weights, sampling and augmentation; the phantoms stay the same

    def __post_init__(self) -> None:
        if min(self.patients - 1, self.scans, self.epochs) < 1 or not 64 <= self.size <= 400:
            raise ValueError("--patients must be at least 2, --scans and --epochs 1, --size in 64..400.")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    fresh_folder(options.folder, Options.folder)
    lidc, luna, run = (options.folder / name for name in ("lidc", "luna16", "run"))
    write_lidc_cohort(lidc, options.patients, seed=0)
    write_luna_cohort(luna, options.scans, seed=1)
    prepared = ["--prepared-dir", str(options.folder / "prepared")]
    small = ["--encoder-filters", "192", "--encoder-blocks", "2", "--decoder-width", "0.25", "--bn-momentum", "0.9",
             "--batch-size", "4", "--lr", "0.02", "--lr-patience", "2", "--lr-factor", "0.3",
             "--epochs", str(options.epochs), "--seed", str(options.seed), "--run-dir", str(run)]
    if preprocess.main(["--data-dir", str(lidc), *prepared, "--size", str(options.size)]):
        return 1
    table.main(prepared)
    slice_idx.main(prepared)
    train.main([*prepared, *small])
    test.main(["--run-dir", str(run)])
    test.main(["--run-dir", str(run), "--scans", str(luna)])
    scan = min((luna / "subset0").glob("*.mhd"))
    predict.main(["--input", str(scan), "--output", str(options.folder / "mask.nii.gz"),
                  "--checkpoint", str(run / "best.npz")])
    for name in ("run/validation/report.html", "run/scans/report.html", "run/curves.png", "mask_overlay.png"):
        print(f"look at {options.folder / name}")
    return 0


if __name__ == "__main__":
    run_script(main)
