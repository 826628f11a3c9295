"""Segment the nodes of a CT: python predict.py --input ct.nii.gz --output mask.nii.gz

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series, in any orientation. The mask is on the CT's own grid;
beside it are written <name>_overlay.png, <name>_viewer.html (opens in a browser) and <name>.json (volumes in ml,
components). With a folder of CTs or a CSV of paths as input and a folder as output, each CT gets the same, and there
are cases.csv and report.html; the same command continues after a stop. With several checkpoints, or --ensemble RUNS
(the folds of crossval.py), probabilities are averaged; <name>_uncertainty.nii.gz is the entropy of the members' votes,
and the JSON holds its mean over each component.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.crop import undo_crop
from shared_data.errors import run_script
from shared_data.metrics import list_components
from shared_data.settings import parse_options, set_options
from shared_data.volume import geometry, onto_scan, to_lps
from shared_data.votes import most_disputed, vote_entropy
from shared_results.ensembles import EnsembleOptions, as_fact, uncertainty_path, with_members
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.outputs import Prediction, ResultOptions
from shared_results.pictures import mask_sheet
from shared_results.predicting import Method, predict
from shared_results.stopwatch import Stopwatch
from shared_results.sweep import without_small
from shared_results.views import ViewOptions
from snet_neck_ln.config import METHOD, ROOT
from snet_neck_ln.inference import logit, predict_members
from snet_neck_ln.members import Loaded, NetworkOptions, find_folds, load_members
from snet_neck_ln.slices import STEPS, to_16bit, window


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions, EnsembleOptions, ViewOptions, NodePoint, NetworkOptions):
    checkpoint: tuple[Path, ...] = (ROOT / "runs" / "snet_neck_ln" / "fold1" / "best.pt",)  # ours or the authors'


def main(argv: Sequence[str] | None = None) -> int:
    options = with_operating_point(parse_options(Options, argv, __doc__), METHOD)
    options = with_members(options, find_folds)
    return predict(options, Method(METHOD, load, segment))


def load(options: Options) -> Loaded:
    """(networks, their Config with the options applied, device)"""
    return load_members(options, set_options(options, "threshold", "size", "batch_size"))


def segment(loaded: Loaded, ct: sitk.Image, options: Options, watch: Stopwatch) -> Prediction:
    """Segment a CT as read from its file."""
    networks, config, device = loaded
    scan, ct = geometry(ct), to_lps(ct)
    hu_zyx = sitk.GetArrayViewFromImage(ct)
    stored = np.stack([to_16bit(window(hu, config.window_center_hu, config.window_width_hu)) for hu in hu_zyx])
    warnings = []
    if max(stored.shape[1:]) > config.size:
        warnings.append(f"slices of {stored.shape[2]}x{stored.shape[1]} pixels; the central {config.size}x{config.size}"
                        f" are segmented. --size {4 * math.ceil(max(stored.shape[1:]) / 4)} takes all.")
    logits, votes = predict_members(networks, stored, config, device, watch.network)
    mask = undo_crop(logits > logit(config.threshold), stored.shape[1:])
    mask = without_small(mask, math.prod(ct.GetSpacing()) / 1000, options.smallest_ml)
    entropy = None if votes is None else undo_crop(vote_entropy(votes), stored.shape[1:])
    found = list_components(mask, ct, entropy)
    volumes = {"volume_ml": sum(node["volume_ml"] for node in found)}
    return Prediction(
        labels=onto_scan(mask.astype(np.uint8), scan), names={1: "lymph node"},
        facts={**as_fact(options.checkpoint), "tta": options.tta, "threshold": config.threshold,
               "smallest_ml": options.smallest_ml, **volumes, "components": found},
        picture=mask_sheet(stored, mask, (0, STEPS)), found=f"{len(found)} components, {volumes['volume_ml']:.2f} ml",
        row={**volumes, "components": len(found), **most_disputed(found, entropy)}, warnings=warnings,
        volumes={} if entropy is None else {uncertainty_path(options.output): onto_scan(entropy, scan)})


if __name__ == "__main__":
    from snet_neck_ln import predict as module  # imported by name, so that other processes can unpickle its functions
    run_script(module.main)
