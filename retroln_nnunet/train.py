"""Crops to a trained nnU-Net: python train.py --fold 0 [--prepare_only] [--resume]

processed/ becomes Dataset600_RetroLN, planned and preprocessed under nnunet_dir; then nnU-Net trains with our trainer.
The plain nnUNetv2_* commands work on the same folders; the lines to set their environment are printed.
"""
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from retroln_nnunet.config import ROOT, STEPS, Config, RunConfig, Train
from retroln_nnunet.crop import CROP_SETTINGS, REGION_SETTINGS, CropConfig
from retroln_nnunet.dataset import DATASET, build_dataset
from retroln_nnunet.model import run_settings
from retroln_nnunet.original_checkpoint import read_checkpoint
from retroln_nnunet.plans import PLANS, prepare, write_plans
from shared_data.cohort import check_apart, say_skipped
from shared_data.errors import InputError, run_script
from shared_data.files import check_free_space, clear_partials, only_run_in, write_json
from shared_data.named_types import Values
from shared_data.processes import die_with_parent
from shared_data.settings import as_prepared, build, changed_config, config_from_dict, given_options
from shared_torch.devices import choose_device

TRAINER = "nnUNetTrainerRetroLN"
# What may change when a run goes on (its folder is named by fold, plans and configuration).
FREE = ("data_dir", "prepared_dir", "nnunet_dir", "epochs", "save_every", "fold", "plans", "configuration", "device",
        "devices", "num_processes", "prepare_only", "prepare", "resume", "c")
# How torch and Python say it while a checkpoint is written.
DISK_FULL = ("No space left", "File too large", "PytorchStreamWriter failed", "inline_container.cc")


@dataclass(frozen=True)
class TrainConfig(Train, Config):
    """What train.py works with."""


def main(argv: Sequence[str] | None = None) -> int:
    given = given_options(Train, argv, __doc__, STEPS)
    config = build(TrainConfig, given)
    device = choose_device(config.device)
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if config.devices > max(1, n_gpus):
        raise InputError(f"--devices {config.devices}: {n_gpus} GPUs to train on ({device.type}). nnU-Net trains in "
                         "parallel on CUDA GPUs only.")
    check_apart(config.prepared_dir, config.nnunet_dir)
    results = model_dir(config) / f"fold_{config.fold}"
    checkpoints = checkpoints_of(results)
    if config.resume or config.c:
        if not checkpoints:
            raise InputError(f"{results}: no checkpoint to go on from. Leave out --resume.")
        config = resumed_config(checkpoints[0], given)
        set_environment(config)
        train(config, device, results)
        return 0
    if checkpoints and not config.prepare_only:
        raise InputError(f"{results}: holds a run already. Add --resume to go on, or name another --nnunet-dir.")
    config = build(TrainConfig, as_prepared(CropConfig, given, config.prepared_dir / "config.json", CROP_SETTINGS))
    set_environment(config)
    skipped = {}
    if config.prepare:
        with only_run_in(config.nnunet_dir):
            skipped = build_dataset(config)
            prepare(config)
    if config.prepare_only:
        print("\n".join(f"export {name}={shlex.quote(os.environ[name])}" for name in sorted(environment(config))))
    else:
        train(config, device, results)
    return say_skipped(skipped)


def environment(config: TrainConfig) -> dict[str, str]:
    """The variables by which nnU-Net finds its folders and our trainer."""
    return {**{name: str(config.nnunet_dir / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_extTrainer": str(ROOT / "retroln_nnunet"), "nnUNet_def_n_proc": str(max(1, config.num_processes))}


def set_environment(config: TrainConfig) -> None:
    os.environ.update(environment(config))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)


def model_dir(config: RunConfig) -> Path:
    """Where nnU-Net keeps the folds of this trainer, plan and configuration."""
    name = f"{TRAINER}__{PLANS[config.plans][0]}__{config.configuration}"
    return config.nnunet_dir / "nnUNet_results" / DATASET / name


def checkpoints_of(results: Path) -> list[Path]:
    """The checkpoints in a fold's folder, in the order in which nnU-Net looks."""
    return [path for name in ("final", "latest", "best") if (path := results / f"checkpoint_{name}.pth").exists()]


def resumed_config(checkpoint: Path, given: Values) -> TrainConfig:
    """The settings of the run that left the checkpoint, with what may change; its plan is put back in place."""
    state = read_checkpoint(checkpoint)
    recorded = config_from_dict(TrainConfig, run_settings(state, checkpoint), checkpoint)
    config = changed_config(recorded, given, FREE, checkpoint)
    write_plans(state["init_args"]["plans"], config)
    return config


def train(config: TrainConfig, device: torch.device, results: Path) -> None:
    """nnUNetv2_train in a process of its own; its words go to the terminal, those on standard error when it fails."""
    command = [sys.executable, "-m", "retroln_nnunet.trainer", "600", config.configuration, str(config.fold),
               "-tr", TRAINER, "-p", PLANS[config.plans][0], "--npz", "-device", device.type,
               "-num_gpus", str(config.devices), *(["--c"] if config.resume or config.c else [])]
    with only_run_in(results):
        clear_partials(results)
        for partial in results.glob("*.partial"):
            partial.unlink()
        check_free_space(results, 500e6)
        if "--c" not in command:  # what predict.py needs to know of crop.py lies beside the plans
            write_json(results.parent / "region.json", {name: getattr(config, name) for name in REGION_SETTINGS})
        done = subprocess.run(command, env={**os.environ, "nnUNet_n_proc_DA": str(config.num_processes)}, text=True,
                              stderr=subprocess.PIPE, errors="replace", preexec_fn=die_with_parent, check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
        full = any(words in line for line in said for words in DISK_FULL)
        if not full:
            print(done.stderr, end="", file=sys.stderr)
        advice = ("The disk is full: free some space" if full
                  else "Out of memory? Try a smaller --batch-size or --patch-zyx")
        raise InputError(f"nnUNetv2_train ended with exit code {done.returncode}: {said[-1] if said else 'no word'}. "
                         f"{advice}.")
    print(f"trained: {results}")


if __name__ == "__main__":
    run_script(main)
