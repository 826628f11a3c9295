"""Score a run on cases it has not seen: python test.py --run-dir ../runs/focusnet_v2

Takes the best.pt of the last stage there is. Whole CTs, no reference label is used to find the head. Writes to
<run>/<split>: cases.csv, organs.csv, small_organs.csv (before and after the branches), summary.json, predictions/,
overlays/, report.html with the human level beside ours.
"""
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from focusnet_v2.cases import cases_of, check_table
from focusnet_v2.checkpoint import load_network, trained_on
from focusnet_v2.config import ROOT, Device, Precision
from focusnet_v2.data_preprocess.data_preprocess import kept_facts
from focusnet_v2.drawing import case_sheet
from focusnet_v2.grids import AIR_HU, onto_grid
from focusnet_v2.inference import choose_device, choose_precision, ready, segment_ct
from focusnet_v2.scoring import SCORES, score_organs, score_small_organs, summarise
from shared_data.cohort import all_skipped, overgrown_notes, say_skipped
from shared_data.colour_tables import write_colour_tables
from shared_data.engines import Engine
from shared_data.errors import InputError, run_script
from shared_data.files import read_json, write_json, write_table
from shared_data.folds import check_unseen
from shared_data.metrics import mean, overgrown
from shared_data.organ_names import identity
from shared_data.pictures import save_picture
from shared_data.report import write_report
from shared_data.scoring import ScoringOptions, score_each
from shared_data.settings import parse_options, set_options, with_changes
from shared_data.volume import geometry, onto_scan, read_mask, read_volume, write_volume

LAST_FIRST = ("adversarial", "SOL", "backbone_heatmap", "backbone")
SMALL_SCORES = ("dice_before", "dice_after", "main_centre_mm", "peak_centre_mm")
HUMAN_LEVEL = Path(__file__).parent / "human_level.json"


@dataclass(frozen=True)
class Options(ScoringOptions):
    run_dir: Path = ROOT / "runs" / "focusnet_v2"  # folder of a run, with its stages
    checkpoint: Path | None = None  # ours or the authors'; unset: best.pt of the run's last stage
    prepared_dir: Path | None = None  # unset: where the run was trained
    split: Literal["test", "valid", "train"] = "test"  # which cases
    output_dir: Path | None = None  # unset: <run>/<split>
    window_step: int | None = None  # slices between windows; unset: the checkpoint's (20)
    window_side: int | None = None  # of a central square to segment, voxels; unset: the checkpoint's (the head)
    heatmap_threshold: float | None = None  # a box counts only above this peak; unset: the checkpoint's (0.6)
    small_threshold: float | None = None  # probability that makes a small organ; unset: the checkpoint's (0.5)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "32-true"  # bf16-mixed: twice as fast on CPUs with bfloat16 instructions, less exact


def main(argv=None):
    options = parse_options(Options, argv, __doc__)
    options = replace(options, checkpoint=options.checkpoint or find_checkpoint(options.run_dir),
                      output_dir=options.output_dir or options.run_dir / options.split)
    loaded = load(options)
    _, config, stage, _ = loaded
    names = cases_of(config, options.split)
    check_table(config)
    if options.split != "train":
        check_unseen(names, trained_on(options.checkpoint), options.checkpoint)
    scored, skipped = score_each(score_case, names, loaded, load, options, [options.checkpoint])
    if not scored:
        raise all_skipped(config.prepared_dir, dict(skipped))
    names, results = zip(*scored)
    organs, small, filled = zip(*results)
    write_results(options, stage, config, names, [*chain.from_iterable(organs)], [*chain.from_iterable(small)],
                  overgrown_notes(filled, config.classes))
    return say_skipped(dict(skipped))


def load(options):
    """(network, config, stage, device)"""
    network, config, stage = load_network(options.checkpoint)
    device = choose_device(options.device)
    changes = set_options(options, "prepared_dir", "window_step", "window_side", "heatmap_threshold",
                          "small_threshold")
    config = with_changes(config, {**changes, "precision": choose_precision(options.precision, device)})
    return ready(network, options.engine, config, device), config, stage, device


def find_checkpoint(run_dir):
    """best.pt of the last stage of a run; run_dir may also be the stage's own folder."""
    for path in (*(run_dir / stage / "best.pt" for stage in LAST_FIRST), run_dir / "best.pt"):
        if path.exists():
            return path
    raise InputError(f"{run_dir}: no best.pt of any stage in it. Train first, or name a --checkpoint.")


def score_case(name, loaded, options):
    """(rows of organs.csv, rows of small_organs.csv, which classes fill more than half of it); the prediction and a
    picture are written."""
    network, config, _, device = loaded
    folder, out = config.prepared_dir / "resampled" / name, options.output_dir
    facts, seen = kept_facts(folder), read_volume(folder / "image.nrrd")
    if facts is None:
        raise InputError(f"{folder / 'case.json'}: damaged. Run data_preprocess.py again.")
    image = read_mask(folder / "reference.nrrd", range(1, config.n_classes))
    reference = sitk.GetArrayFromImage(image)
    result = segment_ct(network, image, seen, config, device,
                        partial(tqdm, desc=name, unit="window", leave=False,
                                disable=None if options.alone else True))
    write_volume(onto_scan(result["final"], facts["scan"]), out / "predictions" / f"{name}.nrrd")
    save_picture(out / "overlays" / f"{name}.png", case_sheet(
        on_grid_of(seen, image), {"reference": reference, "prediction": result["final"]}, config))
    return (score_organs(name, reference, result["final"], image.GetSpacing(), dict(enumerate(config.organs, 1))),
            score_small_organs(name, image, reference, result, config), overgrown(result["final"], config.n_classes))


def on_grid_of(seen, image):
    """The prepared CT on the grid of the scan it comes from, for pictures."""
    hu = np.full(image.GetSize()[::-1], AIR_HU, np.int16)
    values, box = onto_grid(sitk.GetArrayViewFromImage(seen), geometry(seen), image)
    hu[box] = values
    picture = sitk.GetImageFromArray(hu)
    picture.CopyInformation(image)
    return picture


def write_results(options, stage, config, names, organs, small, notes):
    out, path = options.output_dir, options.checkpoint
    by_organ, by_small = summarise(organs, SCORES), summarise(small, SMALL_SCORES)
    human = read_json(HUMAN_LEVEL)
    by_key = {identity(name): scores for name, scores in human["organs"].items()}
    for row in by_organ:
        observers = by_key.get(identity(row["organ"]), {})
        row |= {f"human_{score}": observers.get(score, float("nan")) for score in SCORES}
    cases = [{"case": name, **{score: mean([row[score] for row in organs if row["case"] == name]) for score in SCORES}}
             for name in names]
    overall = {f"mean_{score}": mean([row[score] for row in by_organ]) for score in SCORES}
    write_table(out / "cases.csv", cases)
    write_table(out / "organs.csv", organs)
    write_colour_tables(dict(enumerate(config.organs, 1)), out / "predictions" / "labels")
    write_table(out / "small_organs.csv", small)
    write_json(out / "summary.json", {"checkpoint": path, "stage": stage, "split": options.split, "cases": len(names),
                                      "overall": overall, "organs": by_organ, "small_organs": by_small})
    absent = [row["organ"] for row in by_organ if not row["n_dice"]]
    figures = {f"{name}: reference above, prediction below": out / "overlays" / f"{name}.png" for name in names}
    if (path.parent / "curves.png").exists():
        figures[f"training, stage {stage}"] = path.parent / "curves.png"
    write_report(out / "report.html", f"FocusNet, {len(names)} {options.split} cases", [
        f"Checkpoint: {path} (stage {stage}). Dice, HD95 and ASSD (mm) on the whole CT's own grid. Organs that a "
        "case's reference lacks were not contoured: they enter no mean. HD95 and ASSD of an organ that was not found "
        "at all are infinite, and left out of the mean: n_ says how many count.",
        f"Segmented: {f'the central {config.window_side} voxels of each slice' if config.window_side else 'the head'}; "
        "what lies outside counts as missed.",
        f"In no reference: {', '.join(absent) or 'none'}.",
        f"human_: {human['what']}", *notes],
        {"Overall": [overall], "Organs": by_organ, "Small organs, before and after the branches": by_small,
         "Cases": cases, "Organs of each case": organs, "Small organs of each case": small}, figures)
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
