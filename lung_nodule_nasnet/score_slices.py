"""Scores of the validation slices."""
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.inference import nodule_probability
from lung_nodule_nasnet.members import load_members
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.predict import prepare_network
from lung_nodule_nasnet.prepared_scans import prepared_scan, slice_masks
from lung_nodule_nasnet.slice_idx import split_of
from lung_nodule_nasnet.table import case_names, read_columns
from shared_data.errors import InputError
from shared_data.files import write_json, write_table
from shared_data.metrics import dice, mean
from shared_data.named_types import Floats, Labels, Mask, Rgb, Row
from shared_results.calibration import NOTE, histogram, write_calibration
from shared_results.ensembles import as_fact, check_members_unseen, in_words
from shared_results.error_rates import count_errors, error_table, write_error_rates
from shared_results.pictures import contact_sheet, overlay, save_picture
from shared_results.report import write_report
from shared_results.sweep import write_sweeps

if TYPE_CHECKING:
    import keras

    from lung_nodule_nasnet.test import Filled

TILES = 16
PIXELS = ("overlap_pixels", "reference_pixels", "mask_pixels")


@dataclass(frozen=True)
class SliceResult:
    """A slice of the table, and what the networks make of it: arrays (Y, X)."""

    row: int  # of the table
    image: Floats
    reference: Mask
    probability: Floats
    votes: Labels  # (members, Y, X): the mask of each


def score_slices(options: "Filled", config: Config, seen: dict[Path, list[str]]) -> int:
    """Score the validation slices; seen: {checkpoint: the patients that it has learnt from}."""
    networks, _ = load_members(options.checkpoint,
                               lambda path: prepare_network(path, options.device, {}, options.tta))
    table = config.prepared_dir / "table.h5"
    columns = read_columns(table)
    if columns["size"] != config.size:
        raise InputError(f"{table}: slices of {columns['size']} pixels, the checkpoint's are {config.size}.")
    split = split_of(config, columns)
    indices = split["validation"]
    if split.get("split") != "slice":
        check_members_unseen(options.checkpoint, {columns["subject_ids"][i] for i in indices}, seen.__getitem__)
    uids, names = columns["series_uids"], case_names(columns)
    lacking = {uids[i] for i in indices if np.isnan(columns["spacing_zyx"][i]).any()}
    if lacking and options.smallest_ml:
        raise InputError(f"{table}: made before spacings were kept, so components have no volume. Prepare again, into "
                         "a new folder, or leave out --smallest-ml.")
    slices = SliceSequence(table, indices, replace(config, batch_size=config.predict_batch, devices=1), augmented=False)
    rows, pictures, voxels, wrong = list[Row](), list[tuple[Rgb, str]](), Counter[str](), Counter[str]()
    forecasts, swept = dict[str, Floats](), dict[str, tuple[list[Row], list[Row]]]()
    for uid, of_scan in groupby(slice_results(networks, slices, indices, config), lambda result: uids[result.row]):
        results, name = [*of_scan], names[uid]
        scan = prepared_scan([result.row for result in results], columns)
        probability = np.stack([result.probability for result in results])
        reference = np.stack([result.reference for result in results])
        masks = scan.without_small(slice_masks(probability, config), options.smallest_ml)
        forecasts[name] = histogram(probability, reference)
        if options.sweep and uid not in lacking:
            swept[name] = scan.sweep(probability, reference, masks, config)
        for result, mask in zip(results, masks):
            rows.append({"case": name, "patient": columns["subject_ids"][result.row], "seriesuid": uid,
                         "row": result.row, **score_slice(result, mask)})
            if len(networks) > 1:
                count_errors(result.votes, mask != result.reference, voxels, wrong)
            if result.reference.any():
                drawn = overlay((result.image + 1) / 3, result.reference, mask, 320)
                pictures.append((drawn, f"{rows[-1]['dice']:.3f}"))
    if options.sweep:
        write_sweeps(options.output_dir, [*swept], [*swept.values()])
        if lacking:
            print(f"note: {len(lacking)} scans were prepared before spacings were kept, so their components have no "
                  "volume, and sweep.csv is without them. To have them in it, prepare again, into a new folder.")
    write_results(options, config, rows, pictures, error_table(voxels, wrong), forecasts)
    return 0


def slice_results(networks: "Sequence[keras.Model]", slices: SliceSequence, indices: Sequence[int],
                  config: Config) -> Iterator[SliceResult]:
    """The `SliceResult` of each of the table's rows `indices`, in their order."""
    rows = iter(indices)
    for number in range(len(slices)):
        images, references = slices[number]
        mean_probability, each = nodule_probability(networks, images)
        for i, row in zip(range(len(images)), rows):
            yield SliceResult(row, images[i, ..., 0], references[i, ..., 1] > 0, mean_probability[i],
                              np.stack([slice_mask(probability[i], config) for probability in each]))


def score_slice(result: SliceResult, mask: Mask) -> Row:
    reference, probability = result.reference, result.probability
    soft = 2 * float((reference * probability).sum()) + 1
    return {"dice": dice(reference, mask), "reference_pixels": int(reference.sum()), "mask_pixels": int(mask.sum()),
            "overlap_pixels": int((reference & mask).sum()),
            "soft_dice": soft / (float(reference.sum() + probability.sum()) + 1)}


def summarise(rows: Sequence[Row]) -> Row:
    """Scores over the slices with a nodule, over all pixels, and of the slices without one."""
    positive = [row for row in rows if row["reference_pixels"]]
    overlap, drawn, marked = (sum(row[name] for row in rows) for name in PIXELS)
    empty = [row for row in rows if not row["reference_pixels"]]
    return {
        "slices": len(rows), "slices_with_nodule": len(positive),
        "dice": 2 * overlap / (drawn + marked) if drawn + marked else math.nan,
        "sensitivity": overlap / drawn if drawn else math.nan, "precision": overlap / marked if marked else math.nan,
        "mean_slice_dice": mean([row["dice"] for row in positive]),
        "mean_soft_dice": mean([row["soft_dice"] for row in positive]),
        "slices_found": sum(row["overlap_pixels"] > 0 for row in positive),
        "empty_slices": len(empty), "empty_slices_marked": sum(row["mask_pixels"] > 0 for row in empty)}


def write_results(options: "Filled", config: Config, rows: Sequence[Row], pictures: Sequence[tuple[Rgb, str]],
                  errors: Sequence[Row], forecasts: Mapping[str, Floats]) -> None:
    """errors: `error_table` of an ensemble; forecasts: {case: `histogram`}."""
    out, summary = options.output_dir, summarise(rows)
    calibration = write_calibration(out, {case: counts[None] for case, counts in forecasts.items()}, ["nodule"])
    by_case = []
    for case in forecasts:
        of_case = [row for row in rows if row["case"] == case]
        pixels = {name: sum(row[name] for row in of_case) for name in PIXELS}
        by_case.append({"case": case, **summarise(of_case), **pixels})
    write_table(out / "cases.csv", by_case)
    write_table(out / "slices.csv", rows)
    write_json(out / "summary.json", {**as_fact(options.checkpoint), "tta": options.tta, "split": "validation",
                                      "cases": len(by_case),
                                      "threshold_rule": config.threshold_rule, "scores": summary,
                                      "calibration": calibration,
                                      **({"error_rates": errors} if errors else {})})
    sheet = contact_sheet(pictures[::max(1, len(pictures) // TILES)][:TILES])
    save_picture(out / "overlays" / "contact_sheet.png", sheet)
    figures = {"validation slices with a nodule, Dice (reference green, prediction red)":
               out / "overlays" / "contact_sheet.png"}
    if errors:
        write_error_rates(out, errors)
        figures["error rate of each split of the votes"] = out / "error_rate.png"
    if calibration:
        figures["probability and frequency; grey: 95 % interval over cases"] = out / "calibration.png"
    if (options.run_dir / "curves.png").exists():
        figures["training"] = options.run_dir / "curves.png"
    write_report(out / "report.html", f"NASNet-GCN, validation slices of {config.prepared_dir.name}", [
        f"{in_words(options.checkpoint)}, cut by the rule '{config.threshold_rule}', components from "
        f"{options.smallest_ml:g} ml on.{options.views_note}",
        "dice, sensitivity, precision: pixels of all slices together. mean_slice_dice: mean over the slices with a "
        "nodule. mean_soft_dice: the authors' metric (probabilities, smoothing 1), slice by slice.", NOTE],
        {"Scores": [{"score": name, "value": value} for name, value in summary.items()], "Calibration": calibration,
         "Error rate by vote": errors, "Cases": by_case}, figures)
    print(f"dice {summary['dice']:.3f}  mean slice dice {summary['mean_slice_dice']:.3f}  sensitivity "
          f"{summary['sensitivity']:.3f}  precision {summary['precision']:.3f}  empty slices marked "
          f"{summary['empty_slices_marked']} of {summary['empty_slices']}")
    print(f"report: {out / 'report.html'}")
