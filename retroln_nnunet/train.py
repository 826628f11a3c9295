"""Crops to a trained nnU-Net: python train.py --fold 0 [--prepare_only] [--resume]

processed/ becomes Dataset600_RetroLN, planned and preprocessed under nnunet_dir; then nnU-Net trains with our trainer.
The plain nnUNetv2_* commands work on the same folders; the lines to set their environment are printed.
"""
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet
from tqdm import tqdm

from retroln_nnunet.config import ROOT, Config
from retroln_nnunet.crop import CROP_SETTINGS
from retroln_nnunet.model import choose_device
from shared_data.errors import InputError, run_script
from shared_data.files import read_json, whole_folder, write_json
from shared_data.folds import hold_out, make_folds, natural_sort
from shared_data.settings import parse_options
from shared_data.volume import check_same_grid, read_mask, read_volume, to_lps, write_volume

DATASET = "Dataset600_RetroLN"
TRAINER = "nnUNetTrainerRetroLN"
N_FOLDS = 5
PLANS = {"published": ("RetroLNPlans", "ExperimentPlanner"), "auto": ("nnUNetPlans", "ExperimentPlanner"),
         **{f"resenc_{size.lower()}": (f"nnUNetResEncUNet{size}Plans", f"nnUNetPlannerResEnc{size}")
            for size in ("M", "L", "XL")}}
# Settings that the trainer reads from the plans.
TRAINER_SETTINGS = ("epochs", "iterations", "val_iterations", "lr", "oversample_foreground", "save_every",
                    "elastic_probability", "elastic_scale", "elastic_mm", "landmark_probability", "landmark_shift_mm",
                    "level_error_mm", "levels_mm")


@dataclass(frozen=True)
class TrainConfig(Config):
    prepare_only: bool = False  # stop before training: data set, plan and preprocessed cases
    resume: bool = False  # go on from the latest checkpoint of the fold
    c: bool = False  # the same, spelled as in nnU-Net


def main(argv=None):
    config = parse_options(TrainConfig, argv, __doc__)
    device = choose_device(config.device)
    set_environment(config)
    skipped = build_dataset(config)
    prepare(config)
    results = model_dir(config) / f"fold_{config.fold}"
    there = any(results.glob("checkpoint_*.pth"))
    if config.prepare_only:
        print("\n".join(f"export {name}={shlex.quote(os.environ[name])}" for name in sorted(environment(config))))
    elif there and not (config.resume or config.c):
        raise InputError(f"{results}: holds a run already. Add --resume to go on, or name another --nnunet-dir.")
    elif not there and (config.resume or config.c):
        raise InputError(f"{results}: no checkpoint to go on from. Leave out --resume.")
    else:
        train(config, device)
    for case, reason in skipped.items():
        print(f"skipped {case}: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def environment(config):
    """The variables by which nnU-Net finds its folders and our trainer."""
    return {**{name: str(config.nnunet_dir / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")},
            "nnUNet_extTrainer": str(ROOT / "retroln_nnunet"), "nnUNet_def_n_proc": str(max(1, config.num_processes))}


def set_environment(config):
    os.environ.update(environment(config))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        Path(os.environ[name]).mkdir(parents=True, exist_ok=True)


def model_dir(config):
    """Where nnU-Net keeps the folds of this trainer, plan and configuration."""
    return config.nnunet_dir / "nnUNet_results" / DATASET / f"{TRAINER}__{PLANS[config.plans][0]}__{config.configuration}"


def build_dataset(config):
    """processed/ -> nnUNet_raw/Dataset600_RetroLN, in LPS; {case: why it was left out}. A finished one is kept."""
    folder = config.nnunet_dir / "nnUNet_raw" / DATASET
    report = read_json(config.processed_dir / "report.json")
    cases = natural_sort(row["case"] for row in report["cases"] if row.get("mask_voxels") is not None)
    if not cases:
        raise InputError(f"{config.processed_dir}: no case with a mask. Run crop.py with --mask-dir.")
    if not any(row.get("mask_voxels") for row in report["cases"]):
        raise InputError(f"{config.processed_dir}: not one mask holds a node. Check the masks.")
    train_cases, test_cases = split_cases(cases, config)
    recipe = {"train": train_cases, "test": test_cases, "report": report["cases"]}
    if (folder / "recipe.json").exists() and read_json(folder / "recipe.json")["recipe"] == recipe:
        return read_json(folder / "recipe.json")["skipped"]
    skipped, written = {}, 0
    with whole_folder(folder) as partial:
        for part, names in (("Tr", train_cases), ("Ts", test_cases)):
            for case in tqdm(names, f"cases {part}", unit="case", disable=None):
                try:
                    add_case(partial, part, case, config)
                    written += part == "Tr"
                except InputError as error:
                    skipped[case] = str(error)
        if written < 2:
            raise InputError(f"{config.processed_dir}: {written} cases to train on; at least 2 are needed. "
                             + " | ".join(f"{case}: {reason}" for case, reason in skipped.items()))
        write_json(partial / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph": 1},
                                              "numTraining": written, "file_ending": ".nii.gz"})
        write_json(partial / "recipe.json", {"recipe": recipe, "skipped": skipped,
                                             "processed_dir": config.processed_dir})
    return skipped


def add_case(folder, part, case, config):
    image_path = config.processed_dir / "images" / f"{case}_0000.nii.gz"
    label_path = config.processed_dir / "labels" / f"{case}.nii.gz"
    image, label = to_lps(read_volume(image_path)), to_lps(read_mask(label_path))
    check_same_grid(image, label, label_path)
    write_volume(image, folder / f"images{part}" / f"{case}_0000.nii.gz")
    write_volume(label, folder / f"labels{part}" / f"{case}.nii.gz")


def split_cases(cases, config):
    """(cases to train and validate on, held-out cases); the cases of a patient stay together."""
    patients = by_patient(cases, config.patient_pattern)
    if config.test_share == 0:
        return cases, []
    if len(patients) < 3:
        raise InputError(f"{config.processed_dir}: {len(patients)} patient{'s' * (len(patients) != 1)}; train, "
                         "validation and test need one each. Crop at least 3, or give --test-share 0.")
    train, test = hold_out(patients, config.test_share)
    return [case for name in train for case in patients[name]], [case for name in test for case in patients[name]]


def by_patient(cases, pattern):
    """{patient: its cases}; the patient is what the pattern finds in the case id (its first group, if any)."""
    patients = {}
    for case in cases:
        match = re.search(pattern, case)
        if not match:
            raise InputError(f"case {case}: --patient-pattern {pattern!r} finds nothing in it.")
        patients.setdefault(match[match.re.groups and 1], []).append(case)
    return patients


def prepare(config):
    """Fingerprint, plan and preprocessed cases, as nnU-Net makes them; skipped when they are there for this data set."""
    folder = config.nnunet_dir / "nnUNet_preprocessed" / DATASET
    raw = config.nnunet_dir / "nnUNet_raw" / DATASET
    name, planner = PLANS[config.plans]
    wanted = {"recipe": read_json(raw / "recipe.json")["recipe"], "plan": plan_settings(config)}
    marker = folder / f"{name}_{config.configuration}_prepared.json"
    if not marker.exists() or read_json(marker) != wanted:
        marker.unlink(missing_ok=True)
        nnunet.extract_fingerprints([600], num_processes=max(1, config.num_processes), check_dataset_integrity=True)
        nnunet.plan_experiments([600], planner, overwrite_plans_name=name)
        if config.plans == "published":
            write_json(folder / f"{name}.json", published_plans(read_json(folder / f"{name}.json"), config))
        if config.configuration not in read_json(folder / f"{name}.json")["configurations"]:
            known = ", ".join(read_json(folder / f"{name}.json")["configurations"])
            raise InputError(f"--configuration {config.configuration}: not in the plans. Valid: {known}.")
        nnunet.preprocess([600], name, [config.configuration], [max(1, config.num_processes)])
        write_json(marker, wanted)
    plans = read_json(folder / f"{name}.json")
    plans["retroln"] = {key: getattr(config, key) for key in TRAINER_SETTINGS}
    write_json(folder / f"{name}.json", plans)
    cases = [path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir()]
    write_json(folder / "splits_final.json", make_splits(natural_sort(cases), config))


def make_splits(cases, config):
    """nnU-Net's splits_final.json: five folds (fewer for fewer patients), by patient."""
    patients = by_patient(cases, config.patient_pattern)
    folds = make_folds(patients, N_FOLDS)
    if config.fold >= len(folds):
        raise InputError(f"--fold {config.fold}: there are {len(folds)} folds, from 0.")
    if len(folds) < 2:
        raise InputError("all cases belong to one patient; validation needs another. Check --patient-pattern.")
    return [{"train": [case for fold in folds if fold is not val for name in fold for case in patients[name]],
             "val": [case for name in val for case in patients[name]]} for val in folds]


def plan_settings(config):
    return {"patch": list(config.patch_zyx), "spacing": list(config.spacing_zyx), "batch": config.batch_size,
            "features": config.base_features} if config.plans == "published" else {}


def published_plans(plans, config):
    """nnU-Net's own plans for this data set with the authors' 3d_fullres in place of its own."""
    n = len(STRIDES)
    features = [min(config.base_features * 2 ** stage, 10 * config.base_features) for stage in range(n)]
    own = plans["configurations"]["3d_fullres"]
    full = {**own, "data_identifier": "RetroLNPlans_3d_fullres", "batch_size": config.batch_size,
            "patch_size": list(config.patch_zyx), "spacing": list(config.spacing_zyx), "batch_dice": False,
            "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": n, "features_per_stage": features, "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3]] + [[3, 3, 3]] * (n - 1), "strides": STRIDES,
                    "n_conv_per_stage": [2] * n, "n_conv_per_stage_decoder": [2] * (n - 1), "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}},
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}}
    return {**plans, "plans_name": "RetroLNPlans", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
            "configurations": {"3d_fullres": full}}


STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def train(config, device):
    """nnUNetv2_train in a process of its own; its words go to the terminal."""
    command = [sys.executable, "-m", "retroln_nnunet.trainer", "600", config.configuration, str(config.fold),
               "-tr", TRAINER, "-p", PLANS[config.plans][0], "--npz", "-device", device.type,
               "-num_gpus", str(config.devices), *(["--c"] if config.resume or config.c else [])]
    # What predict.py needs to know of crop.py lies beside the plans.
    write_json(model_dir(config) / "region.json", {name: value for name, value in read_json(
        config.processed_dir / "config.json").items() if name in CROP_SETTINGS})
    code = subprocess.run(command, env={**os.environ, "nnUNet_n_proc_DA": str(config.num_processes)}).returncode
    if code:
        raise InputError(f"nnUNetv2_train ended with exit code {code}; its message stands above. "
                         "Out of memory? Try a smaller --batch-size or --patch-zyx.")
    print(f"trained: {model_dir(config) / f'fold_{config.fold}'}")


if __name__ == "__main__":
    run_script(main)
