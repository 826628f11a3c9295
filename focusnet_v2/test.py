"""Score a run on cases it has not seen: python test.py --run-dir ../runs/focusnet_v2

Takes the best.pt of the last stage there is. Whole CTs, no reference label is used to find the head. Writes to
<run>/<split>: cases.csv, organs.csv and .png, small_organs.csv (before and after the branches), summary.json,
calibration.csv and .png, predictions/, overlays/, viewer/, report.html with the human level beside ours.
"""
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from focusnet_v2.cases import cases_of, check_table
from focusnet_v2.config import METHOD, ROOT, Config, Device, Precision
from focusnet_v2.data_preprocess.data_preprocess import kept_facts
from focusnet_v2.drawing import WINDOW_HU, case_sheet
from focusnet_v2.grids import AIR_HU, onto_grid
from focusnet_v2.inference import Network, segment_ct
from focusnet_v2.members import find_checkpoint, find_folds, load_members
from focusnet_v2.scoring import SCORES, organ_histograms, score_organs, score_small_organs, summarise
from shared_data.cohort import overgrown_notes, say_skipped
from shared_data.colour_tables import write_colour_tables
from shared_data.errors import InputError, run_script
from shared_data.files import write_json, write_table
from shared_data.metrics import mean, overgrown
from shared_data.named_types import Floats, Row
from shared_data.organ_names import identity
from shared_data.settings import parse_options, set_options
from shared_data.volume import geometry, onto_scan, read_mask, read_volume, write_volume
from shared_data.votes import disagreement, vote_entropy
from shared_results.calibration import NOTE, UNDRAWN_NOTE, drawn_alone, write_calibration
from shared_results.ensembles import EnsembleOptions, as_fact, check_members_unseen, in_words, with_members
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
from shared_torch.engines import Engine

SMALL_SCORES = ("dice_before", "dice_after", "main_centre_mm", "peak_centre_mm")


@dataclass(frozen=True)
class Options(EnsembleOptions, OrganPoint, ScoringOptions):
    run_dir: Path = ROOT / "runs" / "focusnet_v2"  # folder of a run, with its stages
    checkpoint: tuple[Path, ...] | None = None  # ours or the authors'; several: an ensemble; unset: the last stage's
    prepared_dir: Path | None = None  # unset: where the run was trained
    split: Literal["test", "valid", "train"] = "test"  # which cases
    output_dir: Path | None = None  # unset: <run>/<split>
    window_step: int | None = None  # slices between windows; unset: the checkpoint's (20)
    window_side: int | None = None  # of a central square to segment, voxels; unset: the checkpoint's (the head)
    heatmap_threshold: float | None = None  # a box counts only above this peak; unset: the checkpoint's (0.6)
    small_threshold: float | None = None  # probability that makes a small organ; unset: the checkpoint's (0.5)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "auto"  # auto: 16-mixed on cuda, else 32-true; bf16-mixed: faster on some CPUs, less exact


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options in which nothing of this is unset any more."""

    checkpoint: tuple[Path, ...]
    output_dir: Path


Loaded = tuple[list[Network], Config, str, torch.device]


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    if options.ensemble:
        options = replace(options, run_dir=options.ensemble / "ensemble")
    options = with_members(options, find_folds)
    options = Filled(**vars(replace(options, checkpoint=options.checkpoint or (find_checkpoint(options.run_dir),),
                                    output_dir=options.output_dir or options.run_dir / options.split)))
    loaded = load(options)
    _, config, stage, _ = loaded
    smallest_of_each(options, config.organs, METHOD)  # refused now, not when a case is done
    names = cases_of(config, options.split)
    check_table(config)
    if options.split != "train":
        check_members_unseen(options.checkpoint, names, trained_on)
    names, (organs, small, filled, voxels, wrong, forecasts, sweeps), skipped = score_all(
        score_case, names, loaded, load, options, options.checkpoint, config.prepared_dir)
    if options.sweep:
        write_table(options.output_dir / "sweep.csv", [*chain.from_iterable(sweeps)], ("case",))
    write_results(options, stage, config, names, [*chain.from_iterable(organs)], [*chain.from_iterable(small)],
                  overgrown_notes(filled, config.classes), error_table(sum(voxels, Counter()), sum(wrong, Counter())),
                  forecasts)
    return say_skipped(skipped)


def load(options: Filled) -> Loaded:
    """(networks, config, stage, device)"""
    return load_members(options, set_options(options, "prepared_dir", "window_step", "window_side",
                                             "heatmap_threshold", "small_threshold"))


def score_case(name: str, loaded: Loaded, options: Filled) -> tuple[Any, ...]:
    """(rows of organs.csv, rows of small_organs.csv, which classes fill more than half of it, voxels and wrong voxels
    of each split of the votes, `histogram` of each organ's probabilities, rows of sweep.csv if it is asked); the
    prediction and a picture are written."""
    networks, config, _, device = loaded
    folder, out = config.prepared_dir / "resampled" / name, options.output_dir
    facts, resampled = kept_facts(folder), read_volume(folder / "image.nrrd")
    if facts is None:
        raise InputError(f"{folder / 'case.json'}: damaged. Run data_preprocess.py again.")
    forecasts = []
    image = read_mask(folder / "reference.nrrd", range(1, config.n_classes))
    reference = sitk.GetArrayFromImage(image)
    result = segment_ct(networks, image, resampled, config, device,
                        partial(tqdm, desc=name, unit="window", leave=False,
                                disable=None if options.alone else True),
                        lambda prediction: forecasts.append(organ_histograms(
                            prediction, sitk.GetArrayViewFromImage(read_volume(folder / "label.nrrd")), config)))
    voxel_ml = math.prod(image.GetSpacing()) / 1000
    swept = sweep_organs(result["final"], reference, config.organs, voxel_ml) if options.sweep else []
    result["final"] = without_islands(result["final"], voxel_ml, smallest_of_each(options, config.organs, METHOD))
    write_volume(onto_scan(result["final"], facts["scan"]), out / "predictions" / f"{name}.nrrd")
    ct = on_grid_of(resampled, image)
    save_picture(out / "overlays" / f"{name}.png", case_sheet(
        ct, {"reference": reference, "prediction": result["final"]}, config))
    rows = score_organs(name, reference, result["final"], image.GetSpacing(), dict(enumerate(config.organs, 1)))
    voxels, wrong, entropy = Counter[str](), Counter[str](), None
    if result["votes"] is not None:
        entropy = vote_entropy(result["votes"])
        write_volume(onto_scan(entropy, facts["scan"]), out / "predictions" / f"{name}_uncertainty.nrrd")
        of_organ = disagreement(entropy, result["final"], range(1, config.n_classes))
        rows = [row | of_organ[label] for label, row in enumerate(rows, 1)]
        drawn = np.unique(reference)  # what nobody drew is no error
        known = np.isin(result["final"], drawn)
        count_errors(result["votes"][:, known], (result["final"] != reference)[known], voxels, wrong)
    write_viewer(out, name, View(
        sitk.GetArrayViewFromImage(ct), image.GetSpacing()[::-1], dict(enumerate(config.organs, 1)), result["final"],
        reference, entropy, absent_is_undrawn=True, window_hu=WINDOW_HU))
    return (rows, score_small_organs(name, image, reference, result, config),
            overgrown(result["final"], config.n_classes), voxels, wrong, drawn_alone(forecasts[0]),
            [{"case": name, **row} for row in swept])


def on_grid_of(resampled: sitk.Image, image: sitk.Image) -> sitk.Image:
    """The prepared CT on the grid of the scan it comes from, for pictures."""
    hu = np.full(image.GetSize()[::-1], AIR_HU, np.int16)
    values, box = onto_grid(sitk.GetArrayViewFromImage(resampled), geometry(resampled), image)
    hu[box] = values
    picture = sitk.GetImageFromArray(hu)
    picture.CopyInformation(image)
    return picture


def write_results(options: Filled, stage: str, config: Config, names: Sequence[str], organs: Sequence[Row],
                  small: Sequence[Row], notes: Sequence[str], errors: Sequence[Row],
                  forecasts: Sequence[Floats]) -> None:
    out, path = options.output_dir, options.checkpoint[0]
    calibration = write_calibration(out, dict(zip(names, forecasts)), config.organs)
    by_organ, by_small = summarise(organs, SCORES), summarise(small, SMALL_SCORES)
    observed, human = human_level()
    for row in by_organ:
        observers = human.get(identity(row["organ"]), {})
        row |= {f"human_{score}": observers.get(score, float("nan")) for score in SCORES}
    cases = [{"case": name, **{score: mean([row[score] for row in organs if row["case"] == name]) for score in SCORES}}
             for name in names]
    overall = {f"mean_{score}": mean([row[score] for row in by_organ]) for score in SCORES}
    write_table(out / "cases.csv", cases)
    write_table(out / "organs.csv", organs)
    write_colour_tables(dict(enumerate(config.organs, 1)), out / "predictions" / "labels")
    write_table(out / "small_organs.csv", small)
    write_json(out / "summary.json", {**as_fact(options.checkpoint), "stage": stage, "split": options.split,
                                      "cases": len(names), "overall": overall, "organs": by_organ,
                                      "small_organs": by_small, "calibration": calibration,
                                      "smallest_ml": smallest_of_each(options, config.organs, METHOD),
                                      **({"error_rates": errors} if errors else {})})
    absent = [row["organ"] for row in by_organ if not row["n_dice"]]
    draw_organ_boxes(organs, out / "organs.png", human)
    figures = {"organs, in brackets the cases with a finite score": out / "organs.png"}
    figures |= {f"{name}: reference above, prediction below": out / "overlays" / f"{name}.png" for name in names}
    if errors:
        write_error_rates(out, errors)
        figures["error rate of each split of the votes"] = out / "error_rate.png"
    if calibration:
        figures["probability and frequency; grey: 95 % interval over cases"] = out / "calibration.png"
    if not errors and (path.parent / "curves.png").exists():
        figures[f"training, stage {stage}"] = path.parent / "curves.png"
    write_report(out / "report.html", f"FocusNet, {len(names)} {options.split} cases", [
        f"{in_words(options.checkpoint)} (stage {stage}). Dice, HD95 and ASSD (mm) on the whole CT's own grid. Organs "
        "that a case's reference lacks were not contoured: they enter no mean. HD95 and ASSD of an organ that was not "
        "found at all are infinite, and left out of the mean: n_ says how many count.",
        f"Segmented: {f'the central {config.window_side} voxels of each slice' if config.window_side else 'the head'}; "
        "what lies outside counts as missed.",
        f"In no reference: {', '.join(absent) or 'none'}.",
        f"human_: {observed}", NOTE + UNDRAWN_NOTE, *notes],
        {"Overall": [overall], "Organs": by_organ, "Small organs, before and after the branches": by_small,
         "Calibration": calibration, "Error rate by vote": errors,
         "Cases": cases, "Organs of each case": organs, "Small organs of each case": small}, figures,
        viewer_pages(out, names))
    print(*notes, sep="\n", end="\n" * bool(notes))
    print("  ".join(f"{name} {value:.4f}" for name, value in overall.items())
          + (f"  in no reference: {', '.join(absent)}" if absent else ""))
    for row in by_small:
        print(f"{row['organ']:13s} Dice {row['dice_before']:.3f} before, {row['dice_after']:.3f} after the branches; "
              f"centre {row['main_centre_mm']:.1f} mm off (main network), {row['peak_centre_mm']:.1f} mm (heatmap)")
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    from focusnet_v2 import test as module  # under the name by which other processes find what it hands them
    run_script(module.main)
