"""All folds, one answer: python crossval.py [--folds 1 2 3] [options of train.py]

Patient folds of the table's scans, those left out by slice_idx.py apart. Trains the folds that are not trained, resumes
killed ones, scores each one's held-out patients (test.py, slice by slice). Writes to <runs>/crossval: cases.csv,
folds.csv, summary.json, report.html: every patient once, per fold and in total, 95 % intervals over patients, the worst
cases. operating_point.json: the cut and smallest nodule that suit them, and the free-response curve, both of the slices
that were prepared (test.py --sweep). Stopped at any moment, the same command goes on.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lung_nodule_nasnet.config import METHOD, STEPS, Config, Train
from lung_nodule_nasnet.slice_idx import patient_rows, read_split, split_of
from lung_nodule_nasnet.table import Columns, case_names, read_columns
from lung_nodule_nasnet.train import is_finished, settings_of
from shared_data.errors import run_script
from shared_data.folds import fold_numbers
from shared_data.named_types import Values
from shared_data.settings import build, given_options
from shared_results.crossval import Fold, FoldOptions, as_arguments, chosen, cross_validate, fold_options, gpu_places
from shared_results.crossval_report import Study
from shared_results.point_choice import Point

STUDY = Study(
    METHOD, "lung_nodule_nasnet", ("dice", "mean_slice_dice", "sensitivity", "precision"),
    point=Point(cut="cut", fixed=(("threshold_rule", "cut"),)),
    point_note="Components go through the slices of a scan, but only where neighbouring slices were prepared: all with "
    "a nodule, of the others a few drawn by chance. On these, false positives per scan are fewer, and what is marked "
    "outside the nodules looks smaller, than on the whole scan: test.py --scans counts them there.",
    pooled=(("dice of all pixels", ("overlap_pixels", "overlap_pixels"), ("reference_pixels", "mask_pixels")),
            ("slices found", ("slices_found",), ("slices_with_nodule",)),
            ("empty slices marked", ("empty_slices_marked",), ("empty_slices",))))
# Options of test.py that train.py has, too.
OF_TEST = ("device", "threshold_rule", "centre_distance", "cut", "erode", "min_pixels", "predict_batch")


@dataclass(frozen=True)
class Options(FoldOptions, Train):
    runs_dir: Path | None = None  # holds the folds' run folders, and crossval/; unset: runs/lung_nodule_nasnet
    tta: bool = False  # score with the average over the flips of training


def main(argv: Sequence[str] | None = None) -> int:
    options, given = fold_options(Options, given_options(Options, argv, __doc__, STEPS))
    runs = options.runs_dir or build(Config, given).run_dir
    columns = read_columns(options.prepared_dir / "table.h5")
    patients = patient_rows(columns, read_split(options.prepared_dir, len(columns["series_uids"]))["left_out"])
    numbers = chosen(options.folds, fold_numbers(patients, options.prepared_dir), options.prepared_dir)
    folds = [plan(number, given, runs / f"fold{number}", columns, options.tta) for number in numbers]
    places = gpu_places(count_gpus(options.device), options.devices)
    return cross_validate(STUDY, folds, runs / "crossval", options.parallel, places)


def plan(number: int, given: Values, run: Path, columns: Columns, tta: bool = False) -> Fold:
    settings = {**given, "val_fold": number, "run_dir": run, "resume": (run / "last.npz").exists()}
    config = settings_of(settings)
    split = split_of(config, columns)
    names = case_names(columns)
    learnt_from = {columns["subject_ids"][i] for i in split["train"]}
    held_out = {names[columns["series_uids"][i]]: columns["subject_ids"][i] for i in split["validation"]}
    test = {"run_dir": run, "prepared_dir": config.prepared_dir, "output_dir": run / "validation",
            "sweep": True, "tta": tta,
            "smallest_ml": 0.0,  # said, so that folds are scored anew whose sweep counted pixels of a slice
            **{name: given[name] for name in OF_TEST if name in given}}
    return Fold(number, None if config.resume and is_finished(config) else as_arguments(settings), as_arguments(test),
                run / "validation", run, (run / "best.npz",), tuple(learnt_from), held_out)


def count_gpus(device: str) -> int:
    if device == "cpu":
        return 0
    from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow takes seconds to load
    from lung_nodule_nasnet.devices import tf
    return len(tf.config.list_physical_devices("GPU"))


if __name__ == "__main__":
    run_script(main)
