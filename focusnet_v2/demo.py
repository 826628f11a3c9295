"""FocusNet from nothing to pictures on a phantom cohort: python demo.py

Coarse voxels, a narrow network, short stages; everything lands in demo/focusnet_v2.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focusnet_v2 import predict, test, train
from focusnet_v2.config import ROOT, Train
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from shared_data.errors import run_script
from shared_data.files import fresh_folder
from shared_data.phantoms import write_pddca_cohort
from shared_data.settings import parse_options

PATCH = "--patch-zyx 12 48 48".split()
SPACING = "--spacing-xyz 3 3 4 --workers 0".split()
CROP = [*PATCH, *"--crop-side 64 --crop-anterior 8 --crop-below 20 --crop-above 8 --workers 0".split()]
SLICES = 26
SHORT = ("--min-slices 16 --box-zyx 8 16 16 --window-step 6 --precision 32-true --patches-per-case 3 --batch-size 2 "
         "--validate-every 3 --width 16 --ae-width 8 --code-length 64 "
         "--backbone-warmup 0 --sol-lr 1e-3 --ae-lr 1e-3 --ae-weight-decay 0 --ae-jitter-zyx 1 2 2 --adv-lr 2e-3 "
         "--adv-code-weight 0.5 --adv-top-offsets 4 --heatmap-threshold 0.3").split()


def settings(n: int) -> list[str]:
    """Options of train.py for short stages, of 2 n to 12 n epochs."""
    epochs = {"backbone": 3 * n, "sol": 6 * n, "ae": 12 * n, "adv": 2 * n}
    milestones = {"backbone": (9 * n // 4, 3 * n - 1), "sol": (3 * n, 5 * n)}
    return [*PATCH, *SHORT, *(word for name, number in epochs.items() for word in (f"--{name}-epochs", str(number))),
            *(word for name, pair in milestones.items() for word in (f"--{name}-milestones", *map(str, pair)))]


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "focusnet_v2"  # the default is made anew; another must be empty
    patients: int = 18  # phantom patients: 11 to train on, 3 to choose the epoch, 4 to score
    size: int = 72  # pixels along x and y
    epochs: int = 4  # half of the last stage's; the others get 3, 6 and 12 times as many
    seed: int = Train.seed  # of weights, sampling and augmentation; the phantoms stay the same

    def __post_init__(self) -> None:
        if self.patients < 3 or self.epochs < 1 or not 32 <= self.size <= 512:
            raise ValueError("--patients must be at least 3, --epochs 1, --size 32 to 512.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    fresh_folder(options.folder, Options.folder)
    raw, run = options.folder / "raw", options.folder / "run"
    write_pddca_cohort(raw, options.patients, size=options.size, slices=SLICES)
    prepared = ["--prepared-dir", str(options.folder / "prepared")]
    data_preprocess.main(["--data-dir", str(raw), *prepared, *SPACING])
    crop_data.main([*prepared, *CROP])
    train.main([*prepared, *settings(options.epochs), "--seed", str(options.seed), "--run-dir", str(run)])
    test.main(["--run-dir", str(run)])
    predict.main(["--input", str(raw / f"P{options.patients}" / "img.nrrd"), "--output",
                  str(options.folder / "labels.nrrd"), "--checkpoint", str(run / "adversarial" / "best.pt")])
    for name in ("run/test/report.html", "run/adversarial/curves.png", "labels_overlay.png"):
        print(f"look at {options.folder / name}")


if __name__ == "__main__":
    run_script(main)
