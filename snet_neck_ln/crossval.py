"""Cross-validation: python crossval.py [--folds 1 2 3] [options of train.py]

Trains the folds that are not yet trained, resumes killed ones, and scores the held-out patients of each (test.py
--split valid). Writes to <runs>/crossval: cases.csv, folds.csv, summary.json and report.html, with every patient once,
scores per fold and in total, 95 % intervals over patients and the worst cases; operating_point.json, the best threshold
and smallest component; the free-response curve (test.py --sweep). The same command continues after a kill at any
moment.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from shared_data.errors import run_script
from shared_data.named_types import Values
from shared_data.settings import build, given_options
from shared_results.crossval import Fold, FoldOptions, as_arguments, chosen, cross_validate, fold_options, gpu_places
from shared_results.crossval_report import Study
from shared_results.point_choice import Point
from shared_torch.devices import choose_device
from snet_neck_ln.config import METHOD, STEPS, Config, Train
from snet_neck_ln.process_data.data_parser import fold_numbers, fold_patients
from snet_neck_ln.train import is_finished, read_settings

STUDY = Study(METHOD, "snet_neck_ln", ("dice", "hd95_mm", "assd_mm", "sensitivity", "false_positives", "slice_dice"),
              point=Point(),
              pooled=(("nodes found", ("nodes_found",), ("nodes",)),))
OF_TEST = ("device", "threshold", "size")  # options that train.py and test.py share


@dataclass(frozen=True)
class Options(FoldOptions, Train):
    runs_dir: Path | None = None  # the folds' run folders and crossval/; unset: runs/snet_neck_ln
    tta: bool = False  # score the average over the flips and quarter turns of training


def main(argv: Sequence[str] | None = None) -> int:
    options, given = fold_options(Options, given_options(Options, argv, __doc__, STEPS))
    runs = options.runs_dir or build(Config, given).run_dir.parent
    numbers = chosen(options.folds, fold_numbers(options.prepared_dir), options.prepared_dir)
    folds = [plan(number, given, runs / f"fold{number}", options.tta) for number in numbers]
    n_gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else 0
    return cross_validate(STUDY, folds, runs / "crossval", options.parallel, gpu_places(n_gpus, options.devices))


def plan(number: int, given: Values, run: Path, tta: bool = False) -> Fold:
    """The `Fold` of a number, with its run folder."""
    settings = {**given, "val_fold": number, "run_dir": run, "resume": (run / "last.pt").exists()}
    config = read_settings(settings)
    trained_on, held_out = (fold_patients(config.prepared_dir, number, part) for part in ("train", "valid"))
    test = {"run_dir": run, "prepared_dir": config.prepared_dir, "split": "valid", "output_dir": run / "valid",
            "sweep": True, "tta": tta,
            **{name: given[name] for name in OF_TEST if name in given}}
    return Fold(number, None if config.resume and is_finished(config) else as_arguments(settings), as_arguments(test),
                run / "valid", run, (run / "best.pt",), tuple(trained_on), {name: name for name in held_out})


if __name__ == "__main__":
    run_script(main)
