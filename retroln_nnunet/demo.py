"""RetroLN-nnUNet from nothing to pictures on a phantom cohort: python demo.py

Coarse voxels, a narrow network, few updates; everything lands in demo/retroln_nnunet. The vertebrae come with the
phantoms, as TotalSegmentator writes them; its weights are not needed.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from retroln_nnunet import crop, predict, test, train
from retroln_nnunet.config import ROOT, Config
from retroln_nnunet.trainer import LandmarkTransform, MagnitudeInVoxels
from shared_data.errors import run_script
from shared_data.files import fresh_folder
from shared_data.phantoms_abdomen import abdomen, write_abdomen_cohort
from shared_data.settings import parse_options
from shared_results.pictures import contact_sheet, overlay, save_picture

# The published plan in small, and a schedule for some hundred updates in place of 250,000.
PLAN = ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "4", "3.6", "3.6", "--base-features", "12", "--lr", "0.1",
        "--momentum", "0.9", "--val-steps", "8", "--num-processes", "0"]


@dataclass(frozen=True)
class Options:
    folder: Path = ROOT / "demo" / "retroln_nnunet"  # the default is made anew; another must be empty
    patients: int = 14  # phantom patients: 8 to train on, 2 to validate, 4 to test
    epochs: int = 10  # of `steps_per_epoch`
    steps_per_epoch: int = 50  # updates in an epoch
    seed: int = Config.seed  # of weights, sampling and augmentation; the phantoms stay the same

    def __post_init__(self) -> None:
        if self.patients < 3 or min(self.epochs, self.steps_per_epoch) < 1:
            raise ValueError("--patients must be at least 3, --epochs and --steps-per-epoch 1.")


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    fresh_folder(options.folder, Options.folder)
    raw = options.folder / "raw"
    write_abdomen_cohort(raw, options.patients, size=72, slices=60)
    nnunet, prepared = ["--nnunet-dir", str(options.folder / "nnunet")], str(options.folder / "processed")
    folders = ["--prepared-dir", prepared, *nnunet]
    crop.main(["--data-dir", str(raw), "--prepared-dir", prepared])
    train.main([*folders, *PLAN, "--test-share", "0.29", "--epochs", str(options.epochs),
                "--steps-per-epoch", str(options.steps_per_epoch), "--seed", str(options.seed)])
    draw_augmentation(options.folder / "augmentation.png")
    test.main([*folders, "--output-dir", str(options.folder / "test"), "--no-mirror"])
    case = f"P{options.patients}"
    predict.main([*nnunet, "--input", str(raw / "CT" / f"{case}_0000.nii.gz"), "--vertebrae",
                  str(raw / "vertebrae" / case), "--output", str(options.folder / "nodes.nii.gz"), "--no-mirror"])
    for name in ("augmentation.png", "test/report.html", f"test/overlays/{case}.png", "nodes_overlay.png"):
        print(f"look at {options.folder / name}")


def draw_augmentation(path: Path, seed: int = 3) -> None:
    """One coronal phantom slice as it is, elastically deformed, and with L2 and the levels misplaced; nodes green."""
    config, spacing = Config(), (3.0, 2.0, 2.0)
    hu, nodes, _ = abdomen(seed, (80, 96, 112), spacing[::-1])
    image, label = torch.from_numpy((np.clip(hu, -160, 240) + 160) / 400).float()[None], torch.from_numpy(nodes)[None]
    landmark = LandmarkTransform(1, config.landmark_shift_mm, config.level_error_mm, config.levels_mm, spacing)
    elastic = SpatialTransform(
        hu.shape, 0, False, p_elastic_deform=1, elastic_deform_scale=config.elastic_scale,
        elastic_deform_magnitude=MagnitudeInVoxels(config.elastic_mm, spacing))
    np.random.seed(seed)
    torch.manual_seed(seed)
    y, pictures = int(nodes.sum((0, 2)).argmax()), []
    for name, step in {"as it is": lambda **case: case, "elastic": elastic, "landmarks misplaced": landmark,
                       "landmarks misplaced again": landmark}.items():
        case = step(image=image.clone(), segmentation=label.clone().to(torch.int16))
        planes = [case[key][0, :, y].flip(0).repeat_interleave(3, 0)[::2].numpy() for key in ("image", "segmentation")]
        pictures.append((overlay(planes[0], planes[1] > 0, side=320), name))
    save_picture(path, contact_sheet(pictures))


if __name__ == "__main__":
    run_script(main)
