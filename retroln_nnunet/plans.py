"""The plan by which nnU-Net preprocesses and trains: the published one, nnU-Net's own, or its residual encoders."""
from typing import Any

from nnunetv2.experiment_planning import plan_and_preprocess_api as nnunet

from retroln_nnunet.config import Config
from retroln_nnunet.dataset import DATASET, make_splits, read_recipe
from shared_data.errors import InputError
from shared_data.files import read_json, write_json
from shared_data.folds import natural_sort

# --plans: nnU-Net's name of the plans, and its planner.
PLANS = {"published": ("RetroLNPlans", "ExperimentPlanner"), "auto": ("nnUNetPlans", "ExperimentPlanner"),
         **{f"resenc_{size.lower()}": (f"nnUNetResEncUNet{size}Plans", f"nnUNetPlannerResEnc{size}")
            for size in ("M", "L", "XL")}}
# Settings that make a run what it is; they stand in the plans, so in every checkpoint. The trainer reads them there.
RUN_SETTINGS = ("test_share", "patient_pattern", "plans", "configuration", "patch_zyx", "spacing_zyx", "batch_size",
                "base_features", "epochs", "steps_per_epoch", "val_steps", "lr", "momentum", "oversample_foreground",
                "save_every", "seed", "elastic_probability", "elastic_scale", "elastic_mm", "landmark_probability",
                "landmark_shift_mm", "level_error_mm", "levels_mm")
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]


def prepare(config: Config) -> None:
    """Fingerprint, plan and preprocessed cases, as nnU-Net makes them; kept when they are there for this data set."""
    folder, raw = (config.nnunet_dir / name / DATASET for name in ("nnUNet_preprocessed", "nnUNet_raw"))
    cases = natural_sort(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    splits = make_splits(cases, config)
    name, planner = PLANS[config.plans]
    workers = max(1, config.num_processes)
    wanted = {"recipe": read_recipe(raw)["recipe"], "plan": plan_settings(config)}
    marker = folder / f"{name}_{config.configuration}_prepared.json"
    if not marker.exists() or read_json(marker) != wanted:
        marker.unlink(missing_ok=True)
        fingerprint = folder / "fingerprint_of.json"
        if not fingerprint.exists() or read_json(fingerprint) != wanted["recipe"]:
            nnunet.extract_fingerprints([600], num_processes=workers)  # dataset.py has checked the cases
            write_json(fingerprint, wanted["recipe"])
        nnunet.plan_experiments([600], planner, overwrite_plans_name=name)
        if config.plans == "published":
            write_json(folder / f"{name}.json", published_plans(read_json(folder / f"{name}.json"), config))
        known = read_json(folder / f"{name}.json")["configurations"]
        if config.configuration not in known:
            raise InputError(f"--configuration {config.configuration}: not in the plans. Valid: {', '.join(known)}.")
        nnunet.preprocess([600], name, [config.configuration], [workers])
        write_json(marker, wanted)
    write_plans(read_json(folder / f"{name}.json"), config)
    write_json(folder / "splits_final.json", splits)


def write_plans(plans: dict[str, Any], config: Config) -> None:
    """nnU-Net's plans file with this run's settings in it."""
    write_json(config.nnunet_dir / "nnUNet_preprocessed" / DATASET / f"{PLANS[config.plans][0]}.json",
               {**plans, "retroln": {name: getattr(config, name) for name in RUN_SETTINGS}})


def plan_settings(config: Config) -> dict[str, Any]:
    return {"patch": list(config.patch_zyx), "spacing": list(config.spacing_zyx), "batch": config.batch_size,
            "features": config.base_features} if config.plans == "published" else {}


def published_plans(plans: dict[str, Any], config: Config) -> dict[str, Any]:
    """nnU-Net's own plans for this data set with the authors' 3d_fullres in place of its own."""
    n = len(STRIDES)
    features = [min(config.base_features * 2 ** stage, 10 * config.base_features) for stage in range(n)]
    default = plans["configurations"]["3d_fullres"]
    full = {**default, "data_identifier": "RetroLNPlans_3d_fullres", "batch_size": config.batch_size,
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
