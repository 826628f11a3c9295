"""Score held-out patients in the original CT geometry: python test.py --fold 0

Writes to the output folder: cases.csv, nodes.csv, summary.json, calibration.csv and .png, predictions/, overlays/,
viewer/, report.html.
"""
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from retroln_nnunet.config import METHOD, Config, RunConfig
from retroln_nnunet.crop import cut, paste
from retroln_nnunet.dataset import DATASET, read_recipe
from retroln_nnunet.model import find_folds, load_members, predict_members, trained_on, turned_like, without_small_parts
from retroln_nnunet.predict import WINDOW_HU, three_planes
from retroln_nnunet.train import model_dir
from shared_data.cohort import say_skipped
from shared_data.errors import InputError, run_script
from shared_data.files import read_json, write_json, write_table
from shared_data.metrics import detection, detection_by_size, dice, spread, surface_distances
from shared_data.named_types import Floats, Rgb, Row
from shared_data.settings import parse_options
from shared_data.volume import (check_same_grid, geometry, image_from, read_ct, read_mask, read_volume, to_lps,
                                write_volume)
from shared_data.votes import vote_entropy
from shared_results.calibration import NOTE, histogram, write_calibration
from shared_results.ensembles import EnsembleOptions, as_fact, check_members_unseen, in_words, with_members
from shared_results.error_rates import count_errors, error_table, write_error_rates
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.pictures import save_picture
from shared_results.report import write_report
from shared_results.scoring import ScoringOptions, score_all
from shared_results.sweep import sweep, write_sweeps
from shared_results.viewer import View, viewer_pages, write_viewer
from shared_torch.devices import choose_device

HEADLINE = ("dice", "hd95_mm", "volume_error_ml", "sensitivity", "false_positives")


@dataclass(frozen=True)
class Options(EnsembleOptions, NodePoint, RunConfig, ScoringOptions):
    prepared_dir: Path = Config.prepared_dir  # crops of crop.py
    split: Literal["test", "valid"] = "test"  # the test patients, or those of the validation fold
    checkpoint: tuple[Path, ...] | None = None  # nnU-Net's .pth; unset: checkpoint_final.pth of the fold
    predictions_dir: Path | None = None  # score these masks of the crops (<case>.nii.gz) instead of predicting
    output_dir: Path | None = None  # unset: <fold's folder>/<split>
    threshold: float | None = None  # probability that makes a node; unset: nnU-Net's (0.5)
    mirror: bool = True  # average over mirrored copies (nnU-Net)

    def __post_init__(self) -> None:
        super().__post_init__()
        ScoringOptions.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options in which nothing of this is unset any more."""

    checkpoint: tuple[Path, ...]
    output_dir: Path


def main(argv: Sequence[str] | None = None) -> int:
    config = filled(with_operating_point(parse_options(Options, argv, __doc__), METHOD))
    if config.predictions_dir and (config.threshold or config.sweep):
        raise InputError(f"--predictions-dir {config.predictions_dir}: masks have no probability to cut. Leave out "
                         "--threshold, --operating-point and --sweep.")
    predictors = load(config)
    names = held_out(config)
    if predictors:
        check_members_unseen(config.checkpoint, names, trained_on)
    names, (cases, found, pictures, voxels, wrong, forecasts, sweeps), skipped = score_all(
        score_case, names, predictors, load, config, config.checkpoint, config.prepared_dir)
    nodes = [{"case": case, **node} for case, rows in zip(names, found) for node in rows]
    if config.sweep:
        write_sweeps(config.output_dir, names, sweeps)
    write_results(config, cases, nodes, dict(zip(names, pictures)),
                  error_table(sum(voxels, Counter()), sum(wrong, Counter())),
                  dict(zip(names, forecasts)) if predictors else {})
    return say_skipped(skipped)


def filled(options: Options) -> Filled:
    fold = model_dir(options) / ("ensemble" if options.ensemble else f"fold_{options.fold}")
    options = with_members(options, find_folds)
    return Filled(**{**vars(options), "checkpoint": options.checkpoint or (fold / "checkpoint_final.pth",),
                     "output_dir": options.output_dir or fold / options.split})


def load(config: Filled) -> list[nnUNetPredictor] | None:
    """nnU-Net's predictors; None where masks are there already."""
    return None if config.predictions_dir else load_members(config.checkpoint, choose_device(config.device),
                                                            config.mirror)


def held_out(config: Filled) -> list[str]:
    """Case ids of the split; raises InputError when train.py has not made it, or it is empty."""
    raw = config.nnunet_dir / "nnUNet_raw" / DATASET
    recipe = read_recipe(raw)
    if config.split == "test":
        cases = [case for case in recipe["recipe"]["test"] if case not in recipe["skipped"]]
    else:
        splits = read_json(config.nnunet_dir / "nnUNet_preprocessed" / DATASET / "splits_final.json")
        if config.fold >= len(splits):
            raise InputError(f"--fold {config.fold}: there are {len(splits)} folds, from 0.")
        cases = splits[config.fold]["val"]
    if not cases:
        raise InputError(f"{raw}: no case held out for {config.split}. Give train.py a larger --test-share.")
    return cases


def score_case(case: str, predictors: Sequence[nnUNetPredictor] | None, config: Filled) -> tuple[Any, ...]:
    """(row of cases.csv, rows of nodes.csv, overlay as RGB, voxels and wrong voxels of each split of the votes,
    `histogram` of the probabilities, what `sweep` says, both None where not at hand, or not asked); the mask is written
    on the CT's own grid."""
    region = read_region(config.prepared_dir / "regions" / f"{case}.json")
    ct, mask_path = read_ct(region["ct"]), Path(region["mask"])
    reference = read_mask(mask_path, any_label=region["settings"]["merge_labels"])
    check_same_grid(ct, reference, mask_path)
    crop = read_volume(config.prepared_dir / "images" / f"{case}_0000.nii.gz")
    votes, entropy, voxels, wrong = None, None, Counter[str](), Counter[str]()
    maps, forecast, swept = list[Floats](), None, None
    if predictors:
        prediction, votes = predict_members(predictors, crop, config.threshold, maps.append)
        forecast = histogram(maps[0], sitk.GetArrayFromImage(to_lps(cut(reference, region))) > 0)
    else:
        assert config.predictions_dir
        prediction = turned_like(read_mask(config.predictions_dir / f"{case}.nii.gz"), crop)
    prediction = without_small_parts(paste(prediction, region), config.smallest_ml)
    write_volume(prediction, config.output_dir / "predictions" / f"{case}.nii.gz")
    if votes:
        entropy = count_votes([paste(vote, region) for vote in votes], prediction, reference, voxels, wrong,
                              config.output_dir / "predictions" / f"{case}_uncertainty.nii.gz")
    drawn, found = (sitk.GetArrayFromImage(to_lps(image)) > 0 for image in (reference, prediction))
    lps = to_lps(ct)
    spacing = lps.GetSpacing()
    write_viewer(config.output_dir, case, View(
        sitk.GetArrayViewFromImage(lps), spacing[::-1], {1: "lymph node"}, found.view(np.uint8), drawn.view(np.uint8),
        None if entropy is None else sitk.GetArrayFromImage(to_lps(entropy)), window_hu=WINDOW_HU))
    nodes, false_positives = detection(drawn, found, spacing)
    voxel_ml = math.prod(spacing) / 1000
    if config.sweep:
        turned = turned_like(image_from(maps[0], geometry(to_lps(crop))), crop)
        swept = sweep(sitk.GetArrayFromImage(to_lps(paste(turned, region))), drawn, found, voxel_ml)
    reference_ml, prediction_ml = float(drawn.sum() * voxel_ml), float(found.sum() * voxel_ml)
    n_found = sum(node["found"] for node in nodes)
    row = {"case": case, "dice": dice(drawn, found), **surface_distances(drawn, found, spacing),
           "reference_ml": reference_ml, "prediction_ml": prediction_ml,
           "volume_error_ml": prediction_ml - reference_ml, "nodes": len(nodes), "nodes_found": n_found,
           "sensitivity": n_found / len(nodes) if nodes else math.nan, "false_positives": false_positives,
           "lost_by_region_ml": region["report"]["lost_ml"]}
    return row, nodes, three_planes(ct, region, reference, prediction), voxels, wrong, forecast, swept


def count_votes(votes: Sequence[sitk.Image], prediction: sitk.Image, reference: sitk.Image, voxels: Counter[str],
                wrong: Counter[str], path: Path) -> sitk.Image:
    """Add an ensemble's errors to the Counters; the image of where its members disagree, which is written, too. All
    images have one grid."""
    votes_zyx = np.stack([*map(sitk.GetArrayViewFromImage, votes)])
    prediction_zyx, reference_zyx = (sitk.GetArrayViewFromImage(image) > 0 for image in (prediction, reference))
    count_errors(votes_zyx, prediction_zyx != reference_zyx, voxels, wrong)
    entropy = image_from(vote_entropy(votes_zyx), geometry(reference))
    write_volume(entropy, path)
    return entropy


def read_region(path: Path) -> dict[str, Any]:
    """What crop.py wrote about a case. Raises InputError when it is absent or damaged."""
    region = read_json(path)
    try:
        image_from(np.zeros((1, 1, 1), np.uint8), region["scan"])
        usable = region["ct"] and region["mask"] and len(region["start_xyz"]) == len(region["size_xyz"]) == 3
        usable = usable and {"settings", "report"} <= region.keys() and "lost_ml" in region["report"]
    except Exception:  # whatever a damaged file may hold
        usable = False
    if not usable:
        raise InputError(f"{path}: damaged, or of a case without a mask. Run crop.py again.")
    return region


def write_results(config: Filled, cases: Sequence[Row], nodes: Sequence[Row], pictures: Mapping[str, Rgb],
                  errors: Sequence[Row], forecasts: Mapping[str, Floats]) -> None:
    """errors: `error_table` of an ensemble; forecasts: {case: `histogram`}, empty where masks were given."""
    out = config.output_dir
    calibration = write_calibration(
        out, {case: counts[None] for case, counts in forecasts.items()}, ["node"]) if forecasts else []
    write_table(out / "cases.csv", cases)
    write_table(out / "nodes.csv", nodes, ("case", "node"))
    summary = {name: spread([row[name] for row in cases]) for name in cases[0] if name != "case"}
    by_size = detection_by_size(nodes)
    source = config.predictions_dir or in_words(config.checkpoint)
    write_json(out / "summary.json", {
        **({"checkpoint": None} if config.predictions_dir else as_fact(config.checkpoint)),
        "predictions_dir": config.predictions_dir, **({"error_rates": errors} if errors else {}),
        "split": config.split, "cases": len(cases), "scores": summary, "detection": by_size,
        "calibration": calibration})
    figures = {}
    for row in sorted(cases, key=lambda row: row["dice"]):
        path = out / "overlays" / f"{row['case']}.png"
        save_picture(path, pictures[row["case"]])
        figures[f"{row['case']}, Dice {row['dice']:.3f} (reference green, prediction red, region yellow)"] = path
    fold = model_dir(config) / f"fold_{config.fold}"
    if errors:
        write_error_rates(out, errors)
        figures["error rate of each split of the votes"] = out / "error_rate.png"
    if calibration:
        figures["probability and frequency; grey: 95 % interval over cases"] = out / "calibration.png"
    if not errors and (fold / "curves.png").exists():
        figures["training"] = fold / "curves.png"
    write_report(out / "report.html", f"RetroLN-nnUNet, {config.split} cases of {config.prepared_dir.name}", [
        f"{len(cases)} cases, {source}, probability cut {config.threshold or 0.5:g}, components from "
        f"{config.smallest_ml:g} ml on. All scores in the CT's full grid: nodes outside the region count as missed.",
        "mean, std, median over the cases where the score is finite; n counts them.", *([NOTE] if calibration else [])],
        {"Scores": [{"score": name, **summary[name]} for name in summary],
         "Nodes found, by short axis": by_size, "Calibration": calibration, "Error rate by vote": errors,
         "Cases": cases}, figures, viewer_pages(out, [row["case"] for row in cases]))
    print("  ".join(f"{name} {summary[name]['mean']:.3f}" if summary[name]["n"] else f"{name} -" for name in HEADLINE))
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    from retroln_nnunet import test as module  # under the name by which other processes find what it hands them
    run_script(module.main)
