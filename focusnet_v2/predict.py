"""Segment the organs of one CT: python predict.py --input ct.nrrd --output labels.nrrd

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series; any orientation and length. The label map lies on the
CT's own grid; beside it come <name>_overlay.png, <name>_viewer.html (opens in a browser) and <name>.json (volumes in
ml, components, small organs' centres).
A folder of CTs or a CSV of paths as input and a folder as output: the same for each, cases.csv and report.html; started
again, it goes on. Several checkpoints, or --ensemble RUNS (the folds of crossval.py): their mean probability;
<name>_uncertainty.nrrd is the entropy of their votes, its mean over each organ stands in the JSON.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import torch

from focusnet_v2.checkpoint import SHIPPED
from focusnet_v2.config import METHOD, Config, Device, Precision
from focusnet_v2.drawing import case_sheet
from focusnet_v2.grids import to_network_grid
from focusnet_v2.inference import Network, segment_ct
from focusnet_v2.members import find_folds, load_members
from shared_data.errors import run_script
from shared_data.named_types import Row
from shared_data.organs import list_organs, organs_found
from shared_data.settings import parse_options, set_options
from shared_data.volume import geometry, onto_scan, to_lps
from shared_data.votes import vote_entropy
from shared_results.ensembles import EnsembleOptions, as_fact, uncertainty_path, with_members
from shared_results.operating_point import OrganPoint, smallest_of_each
from shared_results.outputs import Prediction, ResultOptions
from shared_results.predicting import Method, predict
from shared_results.stopwatch import Stopwatch
from shared_results.sweep import without_islands
from shared_torch.engines import Engine


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions, EnsembleOptions, OrganPoint):
    checkpoint: tuple[Path, ...] = (SHIPPED,)  # of any stage, or the authors'; unset: the weights that ship (OpenKBP)
    window_step: int | None = None  # slices between windows; unset: the checkpoint's (20)
    window_side: int | None = None  # of a central square to segment, voxels; unset: the checkpoint's (the head)
    heatmap_threshold: float | None = None  # a box counts only above this peak; unset: the checkpoint's (0.6)
    small_threshold: float | None = None  # probability that makes a small organ; unset: the checkpoint's (0.5)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "auto"  # auto: 16-mixed on cuda, else 32-true; bf16-mixed: faster on some CPUs, less exact


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    options = with_members(options, find_folds)
    if options.checkpoint == (SHIPPED,):
        print(f"weights: {SHIPPED} (main network alone, OpenKBP, for research)")
    return predict(options, Method(METHOD, load, segment))


def load(options: Options) -> tuple[list[Network], Config, torch.device]:
    """(networks, their Config with the options, device)"""
    changes = set_options(options, "window_step", "window_side", "heatmap_threshold", "small_threshold")
    networks, config, _, device = load_members(options, changes)
    smallest_of_each(options, config.organs, METHOD)  # refused now, not when a CT is done
    return networks, config, device


def segment(loaded: tuple[list[Network], Config, torch.device], ct: sitk.Image, options: Options,
            watch: Stopwatch) -> Prediction:
    """The `Prediction` of a CT as read."""
    networks, config, device = loaded
    scan, ct = geometry(ct), to_lps(ct)
    resampled = to_network_grid(sitk.Cast(ct, sitk.sitkFloat32), config)
    result = segment_ct(networks, ct, sitk.Cast(sitk.Round(resampled), sitk.sitkInt16), config, device,
                        partial(watch.network, unit="window"))
    smallest_ml = smallest_of_each(options, config.organs, METHOD)
    result["final"] = without_islands(result["final"], math.prod(ct.GetSpacing()) / 1000, smallest_ml)
    entropy = None if result["votes"] is None else vote_entropy(result["votes"])
    organs = with_places(list_organs(result["final"], ct.GetSpacing(), config.organs, entropy), result, config)
    return Prediction(
        labels=onto_scan(result["final"], scan), names=dict(enumerate(config.organs, 1)),
        facts={**as_fact(options.checkpoint), "smallest_ml": smallest_ml, "organs": organs},
        volumes={} if entropy is None else {uncertainty_path(options.output): onto_scan(entropy, scan)},
        picture=case_sheet(ct, {"prediction": result["final"]}, config, tiles=6), **organs_found(organs))


def with_places(organs: Sequence[Row], result: Mapping[str, Any], config: Config) -> list[Row]:
    """The same rows; of small organs with "peak" and "centre_xyz_mm" (LPS) of the heatmap, and "box_counted"."""
    if not result["peaks"]:
        return list(organs)
    places = {label: {"peak": peak, "centre_xyz_mm": place, "box_counted": bool(counted)}
              for label, (peak, place), counted in zip(config.small_labels, result["peaks"], result["counted"])}
    return [row | places.get(row["label"], {}) for row in organs]


if __name__ == "__main__":
    from focusnet_v2 import predict as module  # under the name by which other processes find what it hands them
    run_script(module.main)
