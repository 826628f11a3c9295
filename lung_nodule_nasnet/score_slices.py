"""Scores of the validation slices."""
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.inference import nodule_probability
from lung_nodule_nasnet.members import load_members
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.predict import prepare_network
from lung_nodule_nasnet.slice_idx import split_of
from lung_nodule_nasnet.table import read_columns
from shared_data.errors import InputError
from shared_data.files import write_json, write_table
from shared_data.metrics import dice, mean
from shared_data.named_types import Floats, Rgb, Row
from shared_results.calibration import NOTE, histogram, write_calibration
from shared_results.ensembles import as_fact, check_members_unseen, in_words
from shared_results.error_rates import count_errors, error_table, write_error_rates
from shared_results.pictures import contact_sheet, overlay, save_picture
from shared_results.report import write_report
from shared_results.sweep import sweep, write_sweeps

if TYPE_CHECKING:
    from lung_nodule_nasnet.test import Options

TILES = 16
MIN_PIXELS = (1, 4, 8, 16, 32, 64, 128)  # swept
PIXELS = ("overlap_pixels", "reference_pixels", "mask_pixels")


def score_slices(options: "Options", config: Config, seen: dict[Path, list[str]]) -> int:
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
    slices = SliceSequence(table, indices, replace(config, batch_size=config.predict_batch, devices=1), augmented=False)
    rows: list[Row] = []
    forecasts: dict[str, Floats] = {}
    pictures, voxels, wrong = [], Counter[str](), Counter[str]()
    sweeps = Sweeps(config) if options.sweep else None
    for number in range(len(slices)):
        images, references = slices[number]
        mean_probability, each = nodule_probability(networks, images)
        for i, (image, reference, probability) in enumerate(zip(images, references, mean_probability)):
            index = indices[len(rows)]
            there, mask = reference[..., 1] > 0, slice_mask(probability, config) > 0
            patient = columns["subject_ids"][index]
            forecasts[patient] = forecasts.get(patient, 0) + histogram(probability, there)
            if sweeps:
                sweeps.add(patient, probability, there, mask)
            if len(networks) > 1:
                votes = np.stack([slice_mask(own[i], config) for own in each])
                count_errors(votes, mask != there, voxels, wrong)
            soft = 2 * float((there * probability).sum()) + 1
            rows.append({
                "patient": patient, "seriesuid": columns["series_uids"][index], "row": index,
                "dice": dice(there, mask), "reference_pixels": int(there.sum()), "mask_pixels": int(mask.sum()),
                "overlap_pixels": int((there & mask).sum()),
                "soft_dice": soft / (float(there.sum() + probability.sum()) + 1)})
            if there.any():
                pictures.append((overlay((image[..., 0] + 1) / 3, there, mask, 320), f"{rows[-1]['dice']:.3f}"))
    if sweeps:
        sweeps.write(options.output_dir)
    write_results(options, config, rows, pictures, error_table(voxels, wrong), forecasts)
    return 0


class Sweeps:
    """What `sweep` says of each patient's slices; one patient's are in memory at a time. A size is that of all mask in
    a slice, as for `min_pixels`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.patient: str | None = None
        self.slices: list[Any] = []
        self.found: list[Any] = []

    def add(self, patient: str, probability: np.ndarray, there: np.ndarray, mask: np.ndarray) -> None:
        """A slice: (Y, X) arrays; those of a patient come one after the other."""
        if patient != self.patient:
            self._count()
            self.patient, self.slices = patient, []
        self.slices.append((probability, there, mask))

    def write(self, folder: Path) -> None:
        self._count()
        write_sweeps(folder, *zip(*self.found))

    def _count(self) -> None:
        if self.slices:
            probability, there, mask = (apart(planes) for planes in zip(*self.slices))
            self.found.append((self.patient, sweep(probability, there, mask, 1, MIN_PIXELS, True, lambda cut: np.stack([
                slice_mask(plane, replace(self.config, threshold_rule="cut", cut=cut, min_pixels=1)) > 0
                for plane in probability]), len(self.slices))))


def apart(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Slices (Y, X) as a volume with an empty one after each, so that nothing is connected across them."""
    volume = np.zeros((2 * len(planes), *planes[0].shape), planes[0].dtype)
    volume[::2] = planes
    return volume


def summarise(rows: Sequence[Row]) -> Row:
    """Scores over the slices with a nodule, over all pixels, and of the slices without one."""
    positive = [row for row in rows if row["reference_pixels"]]
    overlap, there, marked = (sum(row[name] for row in rows) for name in PIXELS)
    empty = [row for row in rows if not row["reference_pixels"]]
    return {
        "slices": len(rows), "slices_with_nodule": len(positive),
        "dice": 2 * overlap / (there + marked) if there + marked else math.nan,
        "sensitivity": overlap / there if there else math.nan, "precision": overlap / marked if marked else math.nan,
        "mean_slice_dice": mean([row["dice"] for row in positive]),
        "mean_soft_dice": mean([row["soft_dice"] for row in positive]),
        "slices_found": sum(row["overlap_pixels"] > 0 for row in positive),
        "empty_slices": len(empty), "empty_slices_marked": sum(row["mask_pixels"] > 0 for row in empty)}


def write_results(options: "Options", config: Config, rows: Sequence[Row], pictures: Sequence[tuple[Rgb, str]],
                  errors: Sequence[Row], forecasts: Mapping[str, Floats]) -> None:
    """errors: `error_table` of an ensemble; forecasts: {patient: `histogram`}."""
    out, summary = options.output_dir, summarise(rows)
    calibration = write_calibration(out, [one[None] for one in forecasts.values()], ["nodule"])
    by_case = []
    for patient in dict.fromkeys(row["patient"] for row in rows):
        mine = [row for row in rows if row["patient"] == patient]
        pixels = {name: sum(row[name] for row in mine) for name in PIXELS}
        by_case.append({"case": patient, **summarise(mine), **pixels})
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
        figures["probability and frequency; grey: 95 % interval over patients"] = out / "calibration.png"
    if (options.run_dir / "curves.png").exists():
        figures["training"] = options.run_dir / "curves.png"
    write_report(out / "report.html", f"NASNet-GCN, validation slices of {config.prepared_dir.name}", [
        f"{in_words(options.checkpoint)}, cut by the rule '{config.threshold_rule}'.{options.views_note}",
        "dice, sensitivity, precision: pixels of all slices together. mean_slice_dice: mean over the slices with a "
        "nodule. mean_soft_dice: the authors' metric (probabilities, smoothing 1), slice by slice.", NOTE],
        {"Scores": [{"score": name, "value": value} for name, value in summary.items()], "Calibration": calibration,
         "Error rate by vote": errors, "Cases": by_case}, figures)
    print(f"dice {summary['dice']:.3f}  mean slice dice {summary['mean_slice_dice']:.3f}  sensitivity "
          f"{summary['sensitivity']:.3f}  precision {summary['precision']:.3f}  empty slices marked "
          f"{summary['empty_slices_marked']} of {summary['empty_slices']}")
    print(f"report: {out / 'report.html'}")
