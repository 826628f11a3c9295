"""nnU-Net v2 on the cohort, with its own plan (3d_fullres, fold 0: OpenKBP's training part), within a time budget.

    python -m tests.bench.organ_peers.nnunet prepare|train|predict --cohort DIR --run-dir DIR [--small] [--workers N]

Its trainer without mirroring, because of left and right organs. Differences from nnUNetv2_train: the learning rate
falls with the share of the budget used instead of the epoch; there is no validation during training; it is not
compiled; in the loss, organs that nobody drew in a case are merged with its background, as for our own networks
(nnU-Net would teach that they are background). --small: patches of 64^3 and a quarter of the channels instead of the
plan's, for CPUs.
"""
import argparse
import os
import sys
from pathlib import Path

import numpy as np

from shared_data import openkbp
from shared_data.files import read_json, write_json
from tests.bench.organ_peers.budget import Budget
from tests.bench.organ_peers.cohort import presence, read_cases

ID, DATASET, CONFIGURATION = 501, "Dataset501_OpenKBP", "3d_fullres"
EXPONENT = 0.9  # of nnU-Net's falling learning rate


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "train", "predict"])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    folders = options.cohort / "nnunet"
    os.environ |= {name: str(folders / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    # Without workers patches are made in this process, whose time counts; planning takes the number for threads.
    os.environ |= {"nnUNet_n_proc_DA": "1" if options.step == "prepare" else str(options.workers),
                   "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    {"prepare": prepare, "train": train, "predict": predict}[options.step](options, folders)


def prepare(options, folders):
    """Dataset, fingerprint, plan, preprocessed cases: what there is already stays."""
    done = folders / "prepared.json"
    if done.exists():
        return
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    raw, parts = folders / "nnUNet_raw" / DATASET, {part: [*read_cases(options.cohort, part)]
                                                    for part in ("train", "valid")}
    for target, source, suffix in (("imagesTr", "ct", "_0000"), ("labelsTr", "labels", "")):
        (raw / target).mkdir(parents=True, exist_ok=True)
        for case in (*parts["train"], *parts["valid"]):
            link = raw / target / f"{case}{suffix}.nii.gz"
            link.unlink(missing_ok=True)
            link.symlink_to((options.cohort / source / f"{case}.nii.gz").resolve())
    labels = {name: label for label, name in enumerate(("background", *openkbp.ORGANS))}
    write_json(raw / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz",
                                      "numTraining": sum(map(len, parts.values()))})
    extract_fingerprints([ID], num_processes=os.cpu_count())
    plan_experiments([ID])
    preprocess([ID], configurations=[CONFIGURATION], num_processes=[os.cpu_count()])
    write_json(folders / "nnUNet_preprocessed" / DATASET / "splits_final.json",
               [{"train": parts["train"], "val": parts["valid"]}])
    write_json(done, parts)


def build_trainer(options, folders):
    import torch
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    from focusnet_v2.losses import merge_undrawn
    from shared_torch.devices import choose_device

    drawn = read_cases(options.cohort, "train")
    preprocessed = folders / "nnUNet_preprocessed" / DATASET
    plans = {**read_json(preprocessed / "nnUNetPlans.json"), "continue_training": False}
    if options.small:
        plan = plans["configurations"][CONFIGURATION]
        shape = plan["architecture"]["arch_kwargs"]
        shape["features_per_stage"] = [width // 4 for width in shape["features_per_stage"]]
        plan["patch_size"] = [64, 64, 64]

    class Trainer(nnUNetTrainerNoMirroring):
        def run_training(self):
            self.on_train_start()
            budget = Budget(options.run_dir / "cost.json", options.minutes, options.processor)
            while budget.share < 1:
                self.lr_scheduler.step = lambda epoch: PolyLRScheduler.step(self.lr_scheduler, budget.share)
                self.on_epoch_start()
                self.on_train_epoch_start()
                losses = []
                while len(losses) < self.num_iterations_per_epoch and budget.share < 1:
                    losses.append(self.train_step(next(self.dataloader_train)))
                self.on_train_epoch_end(losses)
                loss = np.mean([each["loss"] for each in losses])
                print(f"update {self.n_updates}  loss {loss:.4f}  {budget.share:.1%}", flush=True)
                self.logger.log("epoch_end_timestamps", 0, self.current_epoch)
                self.save_checkpoint(str(options.run_dir / "last.pth"))
                budget.save(updates=self.n_updates, parameters=sum(p.numel() for p in self.network.parameters()))
                self.current_epoch += 1
            for loader in (self.dataloader_train, self.dataloader_val) if options.workers else ():
                loader._finish()  # as on_train_end does

        def configure_optimizers(self):
            optimizer, _ = super().configure_optimizers()
            return optimizer, PolyLRScheduler(optimizer, self.initial_lr, 1, EXPONENT)

        def _build_loss(self):
            loss = super()._build_loss()
            return lambda outputs, target: loss([merge_undrawn(output, self.presence) for output in outputs], target)

        def train_step(self, batch):
            self.presence = torch.tensor(presence([drawn[case] for case in batch["keys"]]), device=self.device)
            self.n_updates += 1
            return super().train_step(batch)

    trainer = Trainer(plans, CONFIGURATION, 0, read_json(preprocessed / "dataset.json"), choose_device("auto"))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))  # nnU-Net takes every core
    trainer.num_iterations_per_epoch = 50 if trainer.device.type == "cuda" else 10
    trainer.n_updates = 0
    return trainer


def train(options, folders):
    trainer = build_trainer(options, folders)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    if (path := options.run_dir / "last.pth").exists():
        trainer.load_checkpoint(str(path))
        trainer.n_updates = read_json(options.run_dir / "cost.json")["updates"]
    trainer.run_training()


def predict(options, folders):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = build_trainer(options, folders)
    trainer.initialize()
    trainer.load_checkpoint(str(options.run_dir / "last.pth"))
    cuda = trainer.device.type == "cuda"
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, perform_everything_on_device=cuda,
                                allow_tqdm=sys.stderr.isatty())
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(trainer.network, trainer.plans_manager, trainer.configuration_manager,
                                    [trainer.network.state_dict()], trainer.dataset_json, "Trainer", None)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    cases = [case for case in read_cases(options.cohort, "test")
             if not (options.output_dir / f"{case}.nii.gz").exists()]
    if not cases:
        return
    inputs = [[f"{options.cohort}/ct/{case}.nii.gz"] for case in cases]
    outputs = [f"{options.output_dir}/{case}" for case in cases]
    if options.workers:
        predictor.predict_from_files(inputs, outputs, num_processes_preprocessing=options.workers,
                                     num_processes_segmentation_export=options.workers)
    else:
        predictor.predict_from_files_sequential(inputs, outputs)


if __name__ == "__main__":
    main()
