"""Segment prepared cases, one model at a time: python segmentation.py [--checkpoint best.pt more.pt ...]

Writes <results>/<member>/<patient>/segmentation.nii.gz, on the CT's own grid, and probability.npz: probabilities summed
over the windows, in steps of 1/100, uint16 (class, z, y, x), on the prepared grid.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sepnet.config import ROOT
from sepnet.dataset import load_case
from sepnet.inference import predict_slices
from sepnet.members import (ChainOptions, NetworkOptions, check_table, find_checkpoints, load_members, patients_of,
                            read_case)
from sepnet.volumes import onto_lps
from shared_data.errors import run_script
from shared_data.files import whole_file
from shared_data.named_types import Labels
from shared_data.settings import parse_options
from shared_data.volume import onto_scan, write_volume
from shared_results.ensembles import check_members_unseen
from shared_torch.checkpoints import trained_on

STEPS = 100  # stored probabilities are multiples of 1 / STEPS (authors)


@dataclass(frozen=True)
class Options(NetworkOptions, ChainOptions):
    run_dir: Path = ROOT / "runs" / "sepnet" / "sepnet"  # a run folder, or a folder of run folders
    checkpoint: tuple[Path, ...] | None = None  # ours or the authors'; unset: every best.pt in --run-dir


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(Options, argv, __doc__)
    checkpoints = options.checkpoint or find_checkpoints(options.run_dir)
    members = load_members(checkpoints, options)
    check_table(members, options.prepared_dir)
    if options.split != "train":
        check_members_unseen(checkpoints, patients_of(options.prepared_dir, options.split), trained_on)
    for name, network, transform in zip(members.names, members.networks, members.transforms):
        for patient in patients_of(options.prepared_dir, options.split):
            prepared = options.prepared_dir / options.split / patient
            case = load_case(prepared, transform)
            bar = partial(tqdm, desc=f"{name}, {patient}", unit="batch", leave=False, disable=None)
            parts = [(part * STEPS).cpu().numpy().astype(np.uint16) for part in predict_slices(
                network, case["image"], members.config, members.device, progress=bar)]
            probability = np.concatenate(parts, axis=1)
            folder = options.results_dir / name / patient
            with whole_file(folder / "probability.npz") as temporary:
                np.savez_compressed(temporary, probability=probability)
            write_segmentation(probability.argmax(0).astype(np.uint8), folder, read_case(prepared))
        print(f"{name}: {options.results_dir / name}")


def write_segmentation(labels: Labels, folder: Path, case: dict[str, Any]) -> None:
    """Write labels on the prepared grid as segmentation.nii.gz on the CT's own; case: its case.json."""
    write_volume(onto_scan(onto_lps(labels, case["seen"], case["lps"]), case["scan"]), folder / "segmentation.nii.gz")


if __name__ == "__main__":
    run_script(main)
