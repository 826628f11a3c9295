"""Score held-out patients: python test.py --run-dir ../runs/snet_neck_ln/fold1

Writes to the output folder: cases.csv, nodes.csv, summary.json, calibration.csv and .png, predictions/, overlays/,
viewer/, report.html. For several checkpoints, or --ensemble RUNS (the folds of crossval.py), also maps of where they
disagree, error_rate.csv and .png.
"""
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from shared_data.cohort import say_skipped
from shared_data.crop import centre_crop, undo_crop
from shared_data.errors import InputError, run_script
from shared_data.files import write_json, write_table
from shared_data.folds import natural_sort
from shared_data.metrics import detection, detection_by_size, dice, mean, spread, surface_distances
from shared_data.named_types import Floats, Labels, Mask, Rgb, Row
from shared_data.settings import build, load_config, note_differences, parse_options, set_options
from shared_data.volume import onto_scan, write_volume
from shared_data.votes import vote_entropy
from shared_results.calibration import NOTE, histogram, write_calibration
from shared_results.ensembles import EnsembleOptions, as_fact, check_members_unseen, in_words, with_members
from shared_results.error_rates import count_errors, error_table, write_error_rates
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.pictures import contact_sheet, overlay, save_picture
from shared_results.report import write_report
from shared_results.scoring import ScoringOptions, score_all
from shared_results.sweep import sweep, without_small, write_sweeps
from shared_results.viewer import View, viewer_pages, write_viewer
from shared_results.views import ViewOptions
from shared_torch.checkpoints import trained_on
from snet_neck_ln.config import METHOD, Config
from snet_neck_ln.dataset import read_slice
from snet_neck_ln.inference import logit, predict_members
from snet_neck_ln.members import Loaded, NetworkOptions, find_folds, load_members
from snet_neck_ln.metrics import probability_correction, slice_dice_as_published, slice_scores
from snet_neck_ln.process_data.data_parser import fold_patients
from snet_neck_ln.process_data.data_process_lymph_node import read_case
from snet_neck_ln.slices import STEPS

HEADLINE = ("dice", "hd95_mm", "assd_mm", "sensitivity", "false_positives")


@dataclass(frozen=True)
class Options(EnsembleOptions, ViewOptions, NodePoint, NetworkOptions, ScoringOptions):
    run_dir: Path | None = None  # a run folder; unset: runs/snet_neck_ln/fold<val_fold>
    checkpoint: tuple[Path, ...] | None = None  # ours or the authors'; several: an ensemble; unset: the run's best.pt
    prepared_dir: Path | None = None  # prepared cohort; unset: the one that the run was trained on
    val_fold: int | None = None  # fold of the run; unset: the checkpoint's (1)
    split: Literal["test", "valid"] = "test"  # the test patients, or those of the validation fold
    output_dir: Path | None = None  # unset: <run folder>/<split>


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options after the unset ones among these have been filled in."""

    run_dir: Path
    checkpoint: tuple[Path, ...]
    output_dir: Path


def main(argv: Sequence[str] | None = None) -> int:
    options = with_operating_point(parse_options(Options, argv, __doc__), METHOD)
    run_dir = options.ensemble / "ensemble" if options.ensemble else (
        options.run_dir or build(Config, set_options(options, "val_fold")).run_dir)
    options = with_members(options, find_folds)
    options = Filled(**vars(replace(options, run_dir=run_dir, checkpoint=options.checkpoint or (run_dir / "best.pt",),
                                    output_dir=options.output_dir or run_dir / options.split)))
    loaded = load(options)
    config = loaded[1]
    prepared_config = config.prepared_dir / "config.json"
    note_differences(load_config(Config, prepared_config), config, ("window_center_hu", "window_width_hu"),
                     prepared_config)
    patients = natural_sort(fold_patients(config.prepared_dir, config.val_fold, options.split))
    if not patients:
        raise InputError(f"{config.prepared_dir}: no {options.split} patients in fold {config.val_fold}.")
    check_members_unseen(options.checkpoint, patients, trained_on)
    patients, (cases, found, pictures, voxels, wrong, forecasts, sweeps), skipped = score_all(
        score_patient, patients, loaded, load, options, options.checkpoint, config.prepared_dir, "patient")
    nodes = [{"case": patient, **node} for patient, rows in zip(patients, found) for node in rows]
    if options.sweep:
        write_sweeps(options.output_dir, patients, sweeps)
    write_results(options, config, cases, nodes, dict(zip(patients, pictures)),
                  error_table(sum(voxels, Counter()), sum(wrong, Counter())), forecasts)
    return say_skipped(skipped)


def load(options: Filled) -> Loaded:
    """(networks, config, device)"""
    return load_members(options, set_options(options, "prepared_dir", "val_fold", "threshold", "size", "batch_size"))


def score_patient(patient: str, loaded: Loaded, options: Filled) -> tuple[Any, ...]:
    """Predict and score a patient; write the mask on the CT's own grid.

    Returns (row of cases.csv, rows of nodes.csv, overlay as RGB, voxels and wrong voxels of each split of the votes,
    `histogram` of the probabilities, result of `sweep` or None).
    """
    networks, config, device = loaded
    case = read_case(config.prepared_dir / patient)
    stored, reference = read_patient(config.prepared_dir / patient, len(case["has_node"]))
    logits, votes = predict_members(networks, stored, config, device)
    forecast = histogram(expit(logits), centre_crop(reference, config.size))
    spacing = case["grid"]["spacing_xyz"]
    voxel_ml = math.prod(spacing) / 1000
    prediction = undo_crop(logits > logit(config.threshold), stored.shape[1:])
    prediction = without_small(prediction, voxel_ml, options.smallest_ml)
    swept = None
    if options.sweep:
        swept = sweep(undo_crop(expit(logits), stored.shape[1:]), reference, prediction, voxel_ml)
    raised = np.stack([probability_correction(plane, config.threshold) for plane in logits])
    corrected = undo_crop(raised > logit(config.threshold), stored.shape[1:])
    write_volume(onto_scan(prediction.astype(np.uint8), case["scan"]),
                 options.output_dir / "predictions" / f"{patient}.nii.gz")
    voxels, wrong, entropy = Counter[str](), Counter[str](), None
    if votes is not None:
        entropy = undo_crop(vote_entropy(votes), stored.shape[1:])
        write_volume(onto_scan(entropy, case["scan"]),
                     options.output_dir / "predictions" / f"{patient}_uncertainty.nii.gz")
        count_errors(votes, centre_crop(prediction != reference, config.size), voxels, wrong)
    low = config.window_center_hu - config.window_width_hu / 2
    write_viewer(options.output_dir, patient, View(
        stored * np.float32(config.window_width_hu / STEPS) + np.float32(low), spacing[::-1], {1: "lymph node"},
        prediction.astype(np.uint8), reference.astype(np.uint8), entropy,
        window_hu=(low, low + config.window_width_hu)))
    nodes, false_positives = detection(reference, prediction, spacing)
    with_node = [slice_scores(*pair) for pair in zip(reference, prediction) if pair[0].any()]
    row = {
        "case": patient, "dice": dice(reference, prediction), **surface_distances(reference, prediction, spacing),
        "nodes": len(nodes), "nodes_found": sum(node["found"] for node in nodes),
        "sensitivity": sum(node["found"] for node in nodes) / len(nodes) if nodes else math.nan,
        "false_positives": false_positives,
        "reference_ml": float(reference.sum() * voxel_ml), "prediction_ml": float(prediction.sum() * voxel_ml),
        **{f"slice_{name}": mean([scores[name] for scores in with_node])
           for name in ("dice", "jaccard", "recall", "precision")},
        "slice_dice_as_published": slice_dice_as_published(reference, prediction),
        "slice_dice_as_published_corrected": slice_dice_as_published(reference, corrected),
    }
    k = int((reference.sum((1, 2)) + prediction.sum((1, 2))).argmax())
    return row, nodes, overlay(stored[k] / STEPS, reference[k], prediction[k]), voxels, wrong, forecast, swept


def read_patient(folder: Path, n_slices: int) -> tuple[Labels, Mask]:
    """(16-bit slices, boolean reference), both (z, y, x), of a prepared patient."""
    planes = [read_slice(folder / "files" / f"{k}.npz") for k in range(n_slices)]
    if len({mask.shape for _, mask in planes}) > 1:
        raise InputError(f"{folder}: slices of different sizes. Delete it, and prepare again.")
    return np.stack([image for image, _ in planes]), np.stack([mask for _, mask in planes]) > 0


def write_results(options: Filled, config: Config, cases: Sequence[Row], nodes: Sequence[Row],
                  pictures: Mapping[str, Rgb], errors: Sequence[Row], forecasts: Sequence[Floats]) -> None:
    """Write tables, pictures and report. errors: `error_table` of an ensemble; forecasts: a `histogram` per case."""
    out = options.output_dir
    calibration = write_calibration(
        out, {row["case"]: forecast[None] for row, forecast in zip(cases, forecasts)}, ["node"])
    write_table(out / "cases.csv", cases)
    write_table(out / "nodes.csv", nodes, ("case", "node"))
    summary = {name: spread([row[name] for row in cases]) for name in cases[0] if name != "case"}
    by_size = detection_by_size(nodes)
    write_json(out / "summary.json", {**as_fact(options.checkpoint), "tta": options.tta, "split": options.split,
                                      "cases": len(cases), "threshold": config.threshold,
                                      "smallest_ml": options.smallest_ml, "scores": summary, "detection": by_size,
                                      "calibration": calibration,
                                      **({"error_rates": errors} if errors else {})})
    ranked = sorted((row for row in cases if not math.isnan(row["dice"])), key=lambda row: row["dice"])
    places = {"worst": 0, "median": len(ranked) // 2, "best": -1} if ranked else {}
    ranks = {ranked[place]["case"]: rank for rank, place in places.items()}  # few cases: one may be two of these
    figures = {}
    for row in ranked:
        if rank := ranks.get(row["case"]):
            save_picture(out / "overlays" / f"{rank}.png", pictures[row["case"]])
            caption = f"{rank}: {row['case']}, Dice {row['dice']:.3f} (reference green, prediction red)"
            figures[caption] = out / "overlays" / f"{rank}.png"
    sheet = contact_sheet([(pictures[row["case"]][::2, ::2], f"{row['case']}  {row['dice']:.3f}")
                           for row in cases])
    save_picture(out / "overlays" / "contact_sheet.png", sheet)
    figures["every case: the slice with most node"] = out / "overlays" / "contact_sheet.png"
    if errors:
        write_error_rates(out, errors)
        figures["error rate of each split of the votes"] = out / "error_rate.png"
    if calibration:
        figures["probability and frequency; grey: 95 % interval over cases"] = out / "calibration.png"
    if (options.run_dir / "curves.png").exists():
        figures["training"] = options.run_dir / "curves.png"
    headline = [{"score": name, **summary[name]} for name in summary]
    write_report(out / "report.html", f"S-Net, {options.split} cases of {config.prepared_dir.name}", [
        f"{len(cases)} cases, probability cut {config.threshold:g}, components of at least "
        f"{options.smallest_ml:g} ml, {in_words(options.checkpoint)}.{options.views_note}",
        "dice, hd95_mm, assd_mm: whole volume, per case. slice_*: mean over slices with a node. "
        "slice_dice_as_published: the authors' mean over all slices, where an empty slice left empty counts 1; "
        "it flatters and is not comparable with dice. _corrected: with their probability correction.",
        "mean, std, median: over the cases with a finite score, of which there are n.", NOTE],
        {"Scores": headline, "Nodes found, by short axis": by_size, "Calibration": calibration,
         "Error rate by vote": errors, "Cases": cases}, figures, viewer_pages(out, [row["case"] for row in cases]))
    print("  ".join(f"{name} {summary[name]['mean']:.3f}" if summary[name]["n"] else f"{name} -" for name in HEADLINE))
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    from snet_neck_ln import test as module  # imported by name, so that other processes can unpickle its functions
    run_script(module.main)
