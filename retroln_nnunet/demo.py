"""RetroLN-nnUNet from nothing to pictures on a phantom cohort: python demo.py

Coarse voxels, a narrow network, few iterations; everything lands in demo/retroln_nnunet. The vertebrae come with the
phantoms, as TotalSegmentator writes them; its weights are not needed.
"""
import shutil
from dataclasses import dataclass
from pathlib import Path

from retroln_nnunet import crop, predict, test, train
from retroln_nnunet.config import ROOT
from shared_data.errors import run_script
from shared_data.phantoms_abdomen import write_abdomen_cohort
from shared_data.settings import parse_options

PLAN = ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "5", "4.5", "4.5", "--base-features", "12",
        "--oversample-foreground", "1", "--val-iterations", "4", "--save-every", "1"]


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "retroln_nnunet"  # made anew
    patients: int = 12  # phantom patients: 8 to train on, 2 to validate, 2 to test
    epochs: int = 8  # of `iterations`
    iterations: int = 50  # updates in an epoch


def main(argv=None):
    options = parse_options(Options, argv, __doc__)
    raw = options.folder / "raw"
    shutil.rmtree(options.folder, ignore_errors=True)
    write_abdomen_cohort(raw, options.patients, size=72, slices=60)
    folders = ["--processed-dir", str(options.folder / "processed"), "--nnunet-dir", str(options.folder / "nnunet")]
    crop.main(["--data-dir", str(raw), *folders])
    train.main([*folders, *PLAN, "--test-share", "0.15", "--epochs", str(options.epochs),
                "--iterations", str(options.iterations)])
    test.main([*folders, "--output-dir", str(options.folder / "test"), "--no-mirror"])
    case = f"P{options.patients}"
    predict.main([*folders, "--input", str(raw / "CT" / f"{case}_0000.nii.gz"), "--vertebrae",
                  str(raw / "vertebrae" / case), "--output", str(options.folder / "nodes.nii.gz"), "--no-mirror"])
    for name in ("test/report.html", f"test/overlays/{case}.png", "nodes_overlay.png"):
        print(f"look at {options.folder / name}")


if __name__ == "__main__":
    run_script(main)
