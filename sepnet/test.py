"""Score one model or an ensemble on prepared cases: python test.py

--run-dir: a run folder, or the folder of the members' run folders. Runs segmentation, ensemble, uncertainty and error
rates in memory. Writes to the output folder: organs.csv and .png, cases.csv, summary.json, calibration.csv and .png,
error_rate.csv and .png, predictions/, overlays/, viewer/, report.html.
"""
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from sepnet.config import METHOD, ROOT, Config
from sepnet.dataset import case_folders, load_case
from sepnet.drawing import case_sheet
from sepnet.inference import segment
from sepnet.members import Members, NetworkOptions, check_table, find_checkpoints, find_folds, load_members, read_case
from sepnet.volumes import hu_of, onto_lps
from shared_data.cohort import overgrown_notes, say_skipped
from shared_data.colour_tables import write_colour_tables
from shared_data.errors import InputError, run_script
from shared_data.files import write_json, write_table
from shared_data.metrics import dice, mean, overgrown, spread, surface_distances
from shared_data.named_types import Floats, Labels, Row
from shared_data.settings import parse_options
from shared_data.volume import onto_scan, read_volume, write_volume
from shared_data.votes import disagreement, vote_entropy
from shared_results.calibration import NOTE, UNDRAWN_NOTE, Forecasts, drawn_alone, write_calibration
from shared_results.ensembles import EnsembleOptions, check_members_unseen, with_members
from shared_results.error_rates import count_errors, error_table, write_error_rates
from shared_results.human_level import human_level
from shared_results.operating_point import OrganPoint, smallest_of_each
from shared_results.organ_boxes import draw_organ_boxes
from shared_results.pictures import save_picture
from shared_results.report import write_report
from shared_results.scoring import ScoringOptions, score_all
from shared_results.sweep import sweep_organs, without_islands
from shared_results.viewer import View, viewer_pages, write_viewer
from shared_torch.checkpoints import trained_on

SCORES = ("dice", "hd95_mm", "assd_mm")
AIR_HU = -1024  # in the viewer, outside the network's crop


@dataclass(frozen=True)
class Options(EnsembleOptions, OrganPoint, NetworkOptions, ScoringOptions):
    run_dir: Path = ROOT / "runs" / "sepnet" / "sepnet"  # a run folder, or a folder of run folders
    checkpoint: tuple[Path, ...] | None = None  # ours or the authors'; unset: every best.pt in --run-dir
    prepared_dir: Path | None = None  # prepared cohort; unset: the one that the first checkpoint was trained on
    split: Literal["valid", "train", "test"] = "valid"  # which cases
    output_dir: Path | None = None  # unset: <run folder>/<split>


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options after the unset ones among these have been filled in."""

    checkpoint: tuple[Path, ...]
    prepared_dir: Path
    output_dir: Path


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    if options.ensemble:
        options = replace(options, run_dir=options.ensemble / "ensemble")
    options = with_members(options, find_folds)
    checkpoints = options.checkpoint or tuple(find_checkpoints(options.run_dir))
    members = load_members(checkpoints, options)
    smallest_of_each(options, members.config.organs, METHOD)  # raises now, not after the first case
    prepared = options.prepared_dir or members.config.prepared_dir
    options = Filled(**vars(replace(options, checkpoint=checkpoints, prepared_dir=prepared,
                                    output_dir=options.output_dir or options.run_dir / options.split)))
    folders = case_folders(replace(members.config, prepared_dir=prepared), options.split)
    if not folders:
        raise InputError(f"{prepared}: no {options.split} cases. Run preprocess.py.")
    check_table(members, prepared)
    if options.split != "train":
        check_members_unseen(checkpoints, [folder.name for folder in folders], trained_on)
    folders, (organs, filled, voxels, wrong, forecasts, sweeps), skipped = score_all(
        score_patient, folders, members, load, options, checkpoints, prepared, "patient", attrgetter("name"))
    patients = [folder.name for folder in folders]
    if options.sweep:
        write_table(options.output_dir / "sweep.csv", [*chain.from_iterable(sweeps)], ("case",))
    write_results(options, members, patients, without_undrawn([*chain.from_iterable(organs)], members.config),
                  error_table(sum(voxels, Counter()), sum(wrong, Counter())), forecasts,
                  overgrown_notes(filled, members.config.classes))
    return say_skipped(skipped)


def load(options: Filled) -> Members:
    return load_members(options.checkpoint, options)


def score_patient(folder: Path, members: Members, options: Filled) -> tuple[Any, ...]:
    """Predict and score a case; write the prediction, its uncertainty, a picture and a viewer page.

    Returns (rows of organs.csv, which classes fill more than half of the case, voxels and wrong voxels of each split of
    the votes, `histogram` of each organ's probabilities, rows of sweep.csv if wanted).
    """
    patient, case = folder.name, read_case(folder)
    loaded = {name: load_case(folder, name) for name in set(members.transforms)}
    images = [loaded[name]["image"] for name in members.transforms]
    bar = partial(tqdm, desc=patient, unit="batch", leave=False, disable=None if options.alone else True)
    truth = loaded[members.transforms[0]]["label"]
    forecasts = Forecasts(truth, members.config.n_classes)
    labels, votes = segment(members.networks, images, members.config, members.device, progress=bar, look=forecasts.look)
    to_ct = partial(onto_lps, network_grid=case["seen"], ct_grid=case["lps"])
    prediction = to_ct(labels)
    image = read_volume(folder / "reference.nii.gz")
    reference = sitk.GetArrayFromImage(image)
    voxel_ml = math.prod(image.GetSpacing()) / 1000
    swept = sweep_organs(prediction, reference, members.config.organs, voxel_ml) if options.sweep else []
    smallest_ml = smallest_of_each(options, members.config.organs, METHOD)
    prediction = without_islands(prediction, voxel_ml, smallest_ml)
    labels = without_islands(labels, math.prod(case["seen"]["spacing_xyz"]) / 1000, smallest_ml)  # of the picture
    voxels, wrong = Counter[str](), Counter[str]()
    count_errors(np.stack([to_ct(vote) for vote in votes]), prediction != reference, voxels, wrong)
    write_volume(onto_scan(prediction, case["scan"]), options.output_dir / "predictions" / f"{patient}.nii.gz")
    entropy = vote_entropy(votes) if len(votes) > 1 else None
    entropy_on_ct = None if entropy is None else to_ct(entropy)
    if entropy_on_ct is not None:
        write_volume(onto_scan(entropy_on_ct, case["scan"]),
                     options.output_dir / "predictions" / f"{patient}_uncertainty.nii.gz")
    save_picture(options.output_dir / "overlays" / f"{patient}.png",
                 case_sheet(images[0], {"reference": truth, "prediction": labels}, members.config.classes, entropy))
    rows = score_organs(patient, reference, prediction, image.GetSpacing(), members.config.classes)
    hu = hu_of(images[0], members.configs[0].control_points(members.transforms[0]))
    write_viewer(options.output_dir, patient, View(
        to_ct(hu - AIR_HU) + AIR_HU, image.GetSpacing()[::-1], dict(enumerate(members.config.organs, 1)), prediction,
        reference, entropy_on_ct, absent_is_undrawn=True))
    if entropy_on_ct is not None:
        of_organ = disagreement(entropy_on_ct, prediction, [row["label"] for row in rows])
        rows = [row | of_organ[row["label"]] for row in rows]
    return (rows, overgrown(prediction, members.config.n_classes), voxels, wrong,
            drawn_alone(forecasts.histograms), [{"case": patient, **row} for row in swept])


def score_organs(patient: str, reference: Labels, prediction: Labels, spacing_xyz: Sequence[float],
                 classes: Sequence[str]) -> list[Row]:
    """One row of organs.csv per organ; one that is absent on both sides is "absent", its scores are NaN."""
    rows = []
    for label, organ in enumerate(classes[1:], 1):
        truth, found = reference == label, prediction == label
        state = {(True, True): "both", (True, False): "missed", (False, True): "false", (False, False): "absent"}
        ml = math.prod(spacing_xyz) / 1000
        rows.append({"case": patient, "label": label, "organ": organ,
                     "found": state[bool(truth.any()), bool(found.any())], "dice": dice(truth, found),
                     **surface_distances(truth, found, spacing_xyz),
                     "reference_ml": float(truth.sum() * ml), "prediction_ml": float(found.sum() * ml)})
    return rows


def without_undrawn(rows: Sequence[Row], config: Config) -> list[Row]:
    """The same rows, but with Dice NaN for organs that the case's reference lacks: nobody drew them there.

    With undrawn "original" only for organs that no reference has.
    """
    drawn = {row["label"] for row in rows if row["reference_ml"]} if config.undrawn == "original" else ()
    return [row if row["reference_ml"] or row["label"] in drawn else {**row, "dice": math.nan} for row in rows]


def write_results(options: Filled, members: Members, patients: Sequence[str], organs: Sequence[Row],
                  errors: Sequence[Row], forecasts: Sequence[Floats], notes: Sequence[str]) -> None:
    """Write tables, pictures and report. organs: rows of `score_organs`; errors: `error_table`; forecasts: a
    `histogram` per case."""
    out = options.output_dir
    calibration = write_calibration(out, dict(zip(patients, forecasts)), members.config.classes[1:])
    by_organ = [summarise_organ([row for row in organs if row["label"] == label])
                for label in range(1, members.config.n_classes)]
    overall = {"mean_dice": mean([row["dice"] for row in by_organ]),
               **weighted_scores(by_organ, members.config.weights)}
    cases = [{"case": patient, **{name: mean([row[name] for row in organs if row["case"] == patient])
                                  for name in SCORES}} for patient in patients]
    write_table(out / "organs.csv", organs)
    write_colour_tables(dict(enumerate(members.config.organs, 1)), out / "predictions" / "labels")
    write_table(out / "cases.csv", cases)
    write_json(out / "summary.json", {"checkpoints": options.checkpoint, "split": options.split, "cases": len(patients),
                                      "overall": overall, "organs": by_organ, "error_rates": errors,
                                      "calibration": calibration,
                                      "smallest_ml": smallest_of_each(options, members.config.organs, METHOD)})
    write_error_rates(out, errors)
    observed, human = human_level()
    draw_organ_boxes(organs, out / "organs.png", human)
    figures = {f"organs, in brackets the cases with a finite score; observers: {observed}": out / "organs.png"}
    figures |= {f"{patient}: reference, prediction, uncertainty": out / "overlays" / f"{patient}.png"
                for patient in patients}
    figures["error rate of each split of the votes"] = out / "error_rate.png"
    if calibration:
        figures["probability and frequency; grey: 95 % interval over cases"] = out / "calibration.png"
    if (options.run_dir / "curves.png").exists():
        figures["training"] = options.run_dir / "curves.png"
    absent = [row["organ"] for row in by_organ if row["found"] == "absent"]
    write_report(out / "report.html", f"SepNet, {options.split} cases of {options.prepared_dir.name}", [
        f"{len(patients)} cases, {len(members.names)} members: {', '.join(members.names)}.",
        "Dice, HD95 and ASSD (mm, the CT's spacing) on the whole CT. An organ that a reference lacks was not drawn "
        "there and enters no mean; false: in how many such cases it was found all the same. "
        "Distances are undefined if one side is empty; n_distance counts the other cases.",
        f"Absent everywhere: {', '.join(absent) or 'none'}. Weighted: the challenge's weights, organs without a score "
        "left out.", NOTE + UNDRAWN_NOTE, *notes],
        {"Overall": [overall], "Organs": by_organ, "Calibration": calibration, "Error rate by vote": errors,
         "Cases": cases, "Organs of each case": organs}, figures, viewer_pages(out, patients))
    shown = "  ".join(f"{name} {value:.4f}" for name, value in overall.items())
    for note in notes:
        print(note)
    print(f"{shown}{'  absent: ' + ', '.join(absent) if absent else ''}")
    print(f"report: {out / 'report.html'}")


def summarise_organ(rows: Sequence[Row]) -> Row:
    """An organ's means and standard deviations over the cases with finite scores, and how many those are."""
    states = Counter(row["found"] for row in rows)
    n_drawn = states["both"] + states["missed"]
    summary = {"label": rows[0]["label"], "organ": rows[0]["organ"],
               "found": f"{states['both']} of {n_drawn}" if n_drawn else "absent"}
    for name in SCORES:
        scores = spread([row[name] for row in rows])
        summary |= {name: scores["mean"], f"{name}_std": scores["std"]}
    return {**summary, "n": sum(math.isfinite(row["dice"]) for row in rows),
            "n_distance": sum(math.isfinite(row["hd95_mm"]) for row in rows), "false": states["false"]}


def weighted_scores(by_organ: Sequence[Row], weights: Sequence[float]) -> dict[str, float]:
    """The challenge's weighted means of Dice and HD95, over the organs that have a score."""
    scores = {}
    for name in ("dice", "hd95_mm"):
        pairs = [(row[name], weights[row["label"] - 1]) for row in by_organ if math.isfinite(row[name])]
        total = sum(weight for _, weight in pairs)
        scores[f"weighted_{name}"] = sum(value * weight for value, weight in pairs) / total if total else math.nan
    return scores


if __name__ == "__main__":
    from sepnet import test as module  # imported by name, so that other processes can unpickle its functions
    run_script(module.main)
