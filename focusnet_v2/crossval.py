"""All folds, one answer: python crossval.py [--folds 1 2 3] [options of train.py]

Patient folds of the prepared train and valid cases; test cases stay apart. Trains the folds (every stage) that are not
trained, resumes killed ones, scores each one's held-out patients (test.py --split valid). Writes to <runs>/crossval:
cases.csv, folds.csv, organs.csv, summary.json, report.html: every patient once, per fold and in total, 95 % intervals
over patients, the worst cases. operating_point.json: the smallest islands that suit them (test.py --sweep). Stopped at
any moment, the same command goes on.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from focusnet_v2.cases import cases_of, fold_patients, read_prepared
from focusnet_v2.config import METHOD, ROOT, STEPS, Train
from focusnet_v2.engine import is_finished, prepared_settings, read_settings
from focusnet_v2.train import chain
from shared_data.errors import run_script
from shared_data.folds import fold_numbers
from shared_data.named_types import Values
from shared_data.settings import given_options
from shared_results.crossval import Fold, FoldOptions, as_arguments, chosen, cross_validate, fold_options, gpu_places
from shared_results.crossval_report import Study
from shared_torch.devices import choose_device

STUDY = Study(METHOD, "focusnet_v2", ("dice", "hd95_mm", "assd_mm"), by_organ=True)
# Options of test.py that train.py has, too.
OF_TEST = ("device", "window_step", "window_side", "heatmap_threshold", "small_threshold")


@dataclass(frozen=True)
class Options(FoldOptions, Train):
    runs_dir: Path | None = None  # holds the folds' run folders, and crossval/; unset: runs/focusnet_v2


def main(argv: Sequence[str] | None = None) -> int:
    options, settings = fold_options(Options, given_options(Options, argv, __doc__, STEPS))
    runs = options.runs_dir or ROOT / "runs" / "focusnet_v2"
    cases = fold_patients(read_prepared(options, "cases.csv", ["case", "part"]))
    numbers = chosen(options.folds, fold_numbers(cases, options.prepared_dir), options.prepared_dir)
    folds = [plan(number, settings, runs / f"fold{number}") for number in numbers]
    n_gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else 0
    return cross_validate(STUDY, folds, runs / "crossval", options.parallel, gpu_places(n_gpus, options.devices))


def plan(number: int, settings: Values, run: Path) -> Fold:
    settings = {**settings, "val_fold": number, "run_dir": run}
    stages = chain(prepared_settings(settings))
    finished = True
    for stage in stages:
        config = read_settings(stage, {**settings, "resume": (run / stage.name / "last.pt").exists()})
        finished &= config.resume and is_finished(stage, config)
    learnt_from, held_out = (cases_of(config, part) for part in ("train", "valid"))
    checkpoint = run / stages[-1].name / "best.pt"
    for_test = {name: settings[name] for name in OF_TEST if name in settings}
    test = {"run_dir": run, "checkpoint": checkpoint, "prepared_dir": config.prepared_dir, "split": "valid",
            "sweep": True, "output_dir": run / "valid", **for_test}
    return Fold(number, None if finished else as_arguments(settings), as_arguments(test), run / "valid",
                checkpoint.parent, (checkpoint,), tuple(learnt_from), {name: name for name in held_out})


if __name__ == "__main__":
    run_script(main)
