"""All folds, one answer: python crossval.py [--folds 0 1 2] [options of train.py]

nnU-Net's own folds, by patient. Prepares the data set once, trains the folds that are not trained, resumes killed ones,
scores each one's held-out cases in the original CT geometry (test.py --split valid). Writes to crossval/ beside the
folds: cases.csv, folds.csv, summary.json, report.html: every patient once, per fold and in total, 95 % intervals over
patients, the worst cases. operating_point.json: the cut and smallest component that suit them, and the free-response
curve (test.py --sweep). Stopped at any moment, the same command goes on.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from retroln_nnunet import train
from retroln_nnunet.config import METHOD, STEPS, Train
from retroln_nnunet.dataset import DATASET, by_patient
from retroln_nnunet.original_checkpoint import read_checkpoint
from shared_data.errors import run_script
from shared_data.files import read_json
from shared_data.named_types import Values
from shared_data.settings import given_options
from shared_results.crossval import Fold, FoldOptions, as_arguments, chosen, cross_validate, fold_options, gpu_places
from shared_results.crossval_report import Study
from shared_results.point_choice import Point
from shared_torch.devices import choose_device

STUDY = Study(METHOD, "retroln_nnunet",
              ("dice", "hd95_mm", "assd_mm", "volume_error_ml", "sensitivity", "false_positives"),
              point=Point(), pooled=(("nodes found", ("nodes_found",), ("nodes",)),))
# Options of test.py that train.py has, too.
OF_TEST = ("nnunet_dir", "prepared_dir", "plans", "configuration", "device")
NOT_HERE = ("fold", "resume", "c", "prepare", "prepare_only")


@dataclass(frozen=True)
class Options(FoldOptions, Train):
    mirror: bool = True  # score with the average over mirrored copies (nnU-Net); --no-mirror: eight times as fast


def main(argv: Sequence[str] | None = None) -> int:
    options, given = fold_options(Options, given_options(Options, argv, __doc__, STEPS), NOT_HERE)
    skipped = train.main(as_arguments({**given, "prepare_only": True}))
    splits = read_json(options.nnunet_dir / "nnUNet_preprocessed" / DATASET / "splits_final.json")
    numbers = chosen(options.folds, range(len(splits)), options.nnunet_dir)
    folds = [plan(number, given, splits[number], options) for number in numbers]
    n_gpus = torch.cuda.device_count() if choose_device(options.device).type == "cuda" else 0
    out = train.model_dir(options) / "crossval"
    return max(skipped, cross_validate(STUDY, folds, out, options.parallel, gpu_places(n_gpus, options.devices)))


def plan(number: int, given: Values, split: Mapping[str, list[str]], options: Options) -> Fold:
    run = train.model_dir(options) / f"fold_{number}"
    settings, finished = {**given, "fold": number}, False
    if checkpoints := train.checkpoints_of(run):
        config = train.resumed_config(checkpoints[0], given)
        finished = (checkpoints[0].name == "checkpoint_final.pth"
                    and read_checkpoint(checkpoints[0])["current_epoch"] >= config.epochs)
        settings["resume"] = True
    else:
        settings["prepare"] = False
    learnt_from, held_out = (by_patient(split[part], options.patient_pattern) for part in ("train", "val"))
    test = {"fold": number, "split": "valid", "output_dir": run / "valid", "mirror": options.mirror, "sweep": True,
            **{name: given[name] for name in OF_TEST if name in given}}
    return Fold(number, None if finished else as_arguments(settings), as_arguments(test), run / "valid", run,
                (run / "checkpoint_final.pth",), tuple(learnt_from),
                {case: patient for patient, cases in held_out.items() for case in cases})


if __name__ == "__main__":
    run_script(main)
