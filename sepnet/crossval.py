"""Cross-validation: python crossval.py [--folds 1 2 3] [--all-members] [options of train.py]

Makes patient folds from the prepared train and valid cases; test cases stay apart. Trains the folds that are not yet
trained, resumes killed ones, and scores the held-out patients of each (test.py --split valid). Writes to
<runs>/crossval: cases.csv, folds.csv, organs.csv, summary.json and report.html, with every patient once, scores per
fold and in total, 95 % intervals over patients and the worst cases; operating_point.json, the best smallest island of
each organ (test.py --sweep). The same command continues after a kill at any moment.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sepnet.config import METHOD, ROOT, Train, given_settings
from sepnet.dataset import case_folders, fold_patients
from sepnet.train import default_run_dir, is_finished, member_settings, read_settings
from shared_data.errors import run_script
from shared_data.files import read_table
from shared_data.folds import fold_numbers
from shared_data.named_types import Values
from shared_results.crossval import Fold, FoldOptions, as_arguments, chosen, cross_validate, fold_options, gpu_places
from shared_results.crossval_report import Study
from shared_torch.devices import choose_device

STUDY = Study(METHOD, "sepnet", ("dice", "hd95_mm", "assd_mm"), by_organ=True)
OF_TEST = ("device", "window_step", "window_batch")  # options that train.py and test.py share


@dataclass(frozen=True)
class Options(FoldOptions, Train):
    runs_dir: Path | None = None  # the folds' run folders and crossval/; unset: runs/sepnet/<network>_folds


def main(argv: Sequence[str] | None = None) -> int:
    options, given = fold_options(Options, given_settings(argv, __doc__, Options))
    runs = options.runs_dir or ROOT / "runs" / "sepnet" / f"{options.network}_folds"
    cases = fold_patients(read_table(options.prepared_dir / "cases.csv", ["case", "part"]))
    numbers = chosen(options.folds, fold_numbers(cases, options.prepared_dir), options.prepared_dir)
    folds = [plan(number, given, runs / f"fold{number}") for number in numbers]
    n_gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else 0
    return cross_validate(STUDY, folds, runs / "crossval", options.parallel, gpu_places(n_gpus, options.devices))


def plan(number: int, given: Values, folder: Path) -> Fold:
    """The `Fold` of a number; its members have run folders in `folder`."""
    settings = {**given, "val_fold": number}
    settings["run_dir"] = folder if given.get("all_members") else folder / default_run_dir(settings).name
    settings["resume"] = True
    configs = [read_settings({**member, "resume": (member["run_dir"] / "last.pt").exists()})
               for member in member_settings(settings)]
    settings["resume"] = any(config.resume for config in configs)
    finished = all(config.resume and is_finished(config) for config in configs)
    trained_on, held_out = ([place.name for place in case_folders(configs[0], part)] for part in ("train", "valid"))
    checkpoints = tuple(config.run_dir / "best.pt" for config in configs)
    test = {"run_dir": folder, "checkpoint": checkpoints, "prepared_dir": configs[0].prepared_dir, "split": "valid",
            "sweep": True, "output_dir": folder / "valid", **{name: given[name] for name in OF_TEST if name in given}}
    return Fold(number, None if finished else as_arguments(settings), as_arguments(test), folder / "valid",
                configs[0].run_dir, checkpoints, tuple(trained_on), {name: name for name in held_out})


if __name__ == "__main__":
    run_script(main)
