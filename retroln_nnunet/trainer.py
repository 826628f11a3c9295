"""nnUNetTrainerRetroLN: nnU-Net's trainer with elastic deformation and landmark-aware transformation.

nnU-Net finds it through the environment variable nnUNet_extTrainer (this folder): nnUNetv2_train 600 3d_fullres 0 -tr
nnUNetTrainerRetroLN. Its settings stand in the plans under "retroln", put there by train.py; without them: config.py's.
"""
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from retroln_nnunet.config import Config
from shared_data.files import whole_file, write_table
from shared_data.folds import natural_sort
from shared_data.named_types import Range, StrPath
from shared_results.pictures import draw_curves


class LandmarkTransform(BasicTransform):
    """The patch as it would be had L2 and the vertebral levels been found with an error.

    shift_mm: standard deviation of L2's position in (z, y, x), mm; level_error_mm: of the distance `levels_mm` from T12
    to L5, which scales z; spacing_zyx: mm. What comes in from outside the patch is its border in the image, `fill` in
    the segmentation. Image and segmentation are (C, Z, Y, X).
    """

    def __init__(self, probability: float, shift_mm: Sequence[float], level_error_mm: float, levels_mm: float,
                 spacing_zyx: Sequence[float], fill: int = -1) -> None:
        super().__init__()
        self.probability, self.shift_mm, self.spacing_zyx = probability, shift_mm, spacing_zyx
        self.level_error_mm, self.levels_mm, self.fill = level_error_mm, levels_mm, fill

    def get_parameters(self, **data: torch.Tensor) -> dict[str, torch.Tensor | None]:
        if np.random.uniform() >= self.probability:
            return {"theta": None}
        shape = np.array(data["image"].shape[1:])
        shift = np.random.normal(0, self.shift_mm) / np.array(self.spacing_zyx)  # voxels
        scale = max(0.5, 1 + np.random.normal(0, self.level_error_mm) / self.levels_mm)
        theta = torch.zeros(1, 3, 4)
        theta[0, :, :3] = torch.diag(torch.tensor([1, 1, scale]))  # grid_sample's order is (x, y, z)
        theta[0, :, 3] = torch.from_numpy((2 * shift / shape)[::-1].copy())
        return {"theta": theta}

    def _apply_to_image(self, image, theta):
        return image if theta is None else _sample(image, theta, "bilinear")

    def _apply_to_segmentation(self, segmentation, theta):
        if theta is None:
            return segmentation
        moved = _sample(segmentation.float() - self.fill, theta, "nearest", "zeros") + self.fill
        return moved.to(segmentation.dtype)


def _sample(array, theta, mode, padding="border"):
    grid = F.affine_grid(theta, [1, *array.shape], align_corners=False)
    return F.grid_sample(array[None], grid, mode=mode, padding_mode=padding, align_corners=False)[0]


class MagnitudeInVoxels:
    """A displacement drawn in mm, as the voxels of each axis that SpatialTransform wants."""

    def __init__(self, low_high_mm: Range, spacing: Sequence[float]) -> None:
        self.low_high_mm, self.spacing = low_high_mm, spacing

    def __call__(self, image: torch.Tensor | None = None, dim: int = 0, **_: object) -> float:
        assert image is not None
        spacing = self.spacing[-(image.ndim - 1):]  # two axes where nnU-Net augments slice by slice
        return np.random.uniform(*self.low_high_mm) / spacing[dim]


class nnUNetTrainerRetroLN(nnUNetTrainer):
    my_init_kwargs: dict[str, Any]
    _best_ema: float | None

    # nnU-Net looks the parameters up by name.
    def __init__(self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any],
                 device: torch.device = torch.device("cuda")) -> None:
        settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                    for name, value in plans.get("retroln", {}).items()}
        self.settings = Config(**settings)
        super().__init__(plans, configuration, fold, dataset_json, device)
        if device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "").isdecimal():  # nnU-Net takes every core
            torch.set_num_threads(max(1, int(os.environ["OMP_NUM_THREADS"])))
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.steps_per_epoch
        self.num_val_iterations_per_epoch = self.settings.val_steps
        self.initial_lr = self.settings.lr
        self.oversample_foreground_percent = self.settings.oversample_foreground
        self.save_every = self.num_epochs + 1  # on_epoch_end below writes checkpoint_latest.pth
        self.logger.plot_progress_png = partial(plot_whole, self.logger.plot_progress_png)
        self.board: SummaryWriter | None = None

    def initialize(self) -> None:
        _seed(self.settings.seed)
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Checkpoints name the cases that they have learnt from."""
        cases, held_out = super().do_split()
        self._note_trained_on(cases)
        return cases, held_out

    def _note_trained_on(self, cases):
        dataset = self.my_init_kwargs["dataset_json"]
        learnt_from = natural_sort({*cases, *dataset.get("trained_on", [])})
        self.my_init_kwargs = {**self.my_init_kwargs, "dataset_json": {**dataset, "trained_on": learnt_from}}

    def on_epoch_start(self) -> None:
        """Chance depends on the epoch alone: with one process (--num-processes 0) a resumed run meets the same."""
        _seed(self.settings.seed + 1 + self.current_epoch + 10_000 * self.local_rank)
        super().on_epoch_start()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optimizer, scheduler = super().configure_optimizers()
        optimizer.param_groups[0]["momentum"] = self.settings.momentum
        return optimizer, scheduler

    def get_training_transforms(self, *args: object, **kwargs: object) -> BasicTransform:
        pipeline = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        settings, spacing = self.settings, self.configuration_manager.spacing
        spatial = next(step for step in pipeline.transforms if isinstance(step, SpatialTransform))
        spatial.p_elastic_deform = settings.elastic_probability
        spatial.elastic_deform_scale = settings.elastic_scale
        spatial.elastic_deform_magnitude = MagnitudeInVoxels(settings.elastic_mm, spacing)
        if len(spacing) == 3:
            pipeline.transforms.insert(0, LandmarkTransform(
                settings.landmark_probability, settings.landmark_shift_mm, settings.level_error_mm,
                settings.levels_mm, spacing))
        return pipeline

    def on_epoch_end(self) -> None:
        """best before latest, so that a kill between them loses nothing; then history, curves, TensorBoard."""
        super().on_epoch_end()
        if self.current_epoch % self.settings.save_every == 0 and self.current_epoch < self.num_epochs:
            self.current_epoch -= 1  # super counted on; the checkpoint adds one
            self.save_checkpoint(os.path.join(self.output_folder, "checkpoint_latest.pth"))
            self.current_epoch += 1
        if self.local_rank == 0:
            self.write_history()

    def write_history(self) -> None:
        logged = self.logger.get_checkpoint()
        columns = {"loss": "train_losses", "val_loss": "val_losses", "pseudo_dice": "mean_fg_dice",
                   "lr": "lrs"}
        history = [{"epoch": epoch + 1, **{name: float(logged[key][epoch]) for name, key in columns.items()}}
                   for epoch in range(self.current_epoch)]
        write_table(os.path.join(self.output_folder, "history.csv"), history)
        with matplotlib.rc_context():
            matplotlib.rcdefaults()  # nnU-Net sets large letters for its own picture
            draw_curves(history, os.path.join(self.output_folder, "curves.png"),
                        {"loss": ["loss", "val_loss"], "Dice of validation patches": ["pseudo_dice"]})
        if self.board is None:
            self.board = SummaryWriter(os.path.join(self.output_folder, "tensorboard"), purge_step=self.current_epoch)
        for name in columns:
            self.board.add_scalar(name, history[-1][name], self.current_epoch)
        self.board.flush()

    def save_checkpoint(self, filename: str) -> None:
        """Whole or not at all; plain numbers only, so that it opens with weights_only=True."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            if self._best_ema is not None:
                self._best_ema = float(self._best_ema)
            super().save_checkpoint(filename + ".partial")
            os.replace(filename + ".partial", filename)

    def load_checkpoint(self, filename_or_checkpoint: StrPath) -> None:
        from retroln_nnunet.original_checkpoint import read_checkpoint
        # nnU-Net opens it as a pickle: refuse what holds more than data.
        dataset = read_checkpoint(filename_or_checkpoint)["init_args"]["dataset_json"]
        of_this_run = self.my_init_kwargs
        super().load_checkpoint(filename_or_checkpoint)
        self.my_init_kwargs = of_this_run  # a run made longer stays so
        self._note_trained_on(dataset.get("trained_on", []))


def plot_whole(plot: Callable[[str], object], folder: StrPath) -> None:
    """nnU-Net's progress.png, whole or not at all."""
    with whole_file(os.path.join(folder, "progress.png")) as path:
        plot(str(path.parent))


def _seed(seed):
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def hand_over() -> ModuleType:
    """Give nnUNetv2_train this trainer: nnU-Net's own search imports every trainer it has, and what they need."""
    from nnunetv2.run import run_training

    from retroln_nnunet import trainer
    run_training.recursive_find_trainer_class_by_name = lambda name: getattr(trainer, name)
    return run_training


if __name__ == "__mp_main__":  # a process of nnU-Net's DDP, one for each GPU
    hand_over()
if __name__ == "__main__":
    hand_over().run_training_entry()
