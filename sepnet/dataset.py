"""From prepared cases, held in memory, to batches of patches."""
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset, Sampler

from sepnet.config import Config
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.folds import fold_parts
from shared_data.named_types import Array, Floats, Labels
from shared_data.volume import read_volume

Loader = DataLoader[dict[str, Any]]  # items of `PatchDataset`


class Case(TypedDict):
    """A prepared case in memory; arrays (z, y, x)."""

    patient: str
    image: Floats
    label: Labels
    spacing_zyx: Sequence[float]  # mm


def build_loader(config: Config, rank: int = 0, world_size: int = 1) -> Loader:
    """`steps_per_epoch` batches of patches of the training cases; each process gets its share of every batch."""
    patches = PatchDataset(load_cases(config, "train"), config, rank, world_size)
    return DataLoader(patches, batch_size=None, sampler=Steps(config.steps_per_epoch), num_workers=config.workers,
                      persistent_workers=config.workers > 0, pin_memory=torch.cuda.is_available())


def load_cases(config: Config, part: str) -> list[Case]:
    """The cases of a part. Raises InputError if there is none."""
    folders = case_folders(config, part)
    if not folders:
        raise InputError(f"{config.prepared_dir / 'cases.csv'}: no {part} case in it. Run preprocess.py again.")
    return [load_case(folder, config.transform) for folder in folders]


def case_folders(config: Config, part: str) -> list[Path]:
    """Folders of the prepared cases of a part. With `val_fold`, "train" and "valid" are the parts of a patient fold
    made from both; test cases stay apart."""
    rows = read_table(config.prepared_dir / "cases.csv", ["case", "part"])
    names = [row["case"] for row in rows if row["part"] == part]
    if config.val_fold and part != "test":
        train, valid = fold_parts(fold_patients(rows), config.val_fold, config.prepared_dir)
        names = train if part == "train" else valid
    folders = {row["case"]: config.prepared_dir / row["part"] / row["case"] for row in rows}
    return [folders[name] for name in names]


def fold_patients(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The patients that folds are made of, from the rows of cases.csv."""
    return [row["case"] for row in rows if row["part"] != "test"]


def load_case(folder: Path, transform: str) -> Case:
    """A prepared case, with the intensity function `transform`. Raises InputError for a missing or damaged file."""
    if transform == "single_window" and not (folder / "single_window.nii.gz").exists():
        raise InputError(f"{folder}: no single_window.nii.gz. Run preprocess.py --plain-window into a new folder.")
    image, label = read_volume(folder / f"{transform}.nii.gz"), read_volume(folder / "label.nii.gz")
    return {"patient": folder.name, "image": sitk.GetArrayFromImage(image), "label": sitk.GetArrayFromImage(label),
            "spacing_zyx": image.GetSpacing()[::-1]}


class Steps(Sampler[tuple[int, int]]):
    """(epoch, step) for each step of `epoch`. No set_epoch(): Fabric would call it with its own count, which ignores
    resuming."""

    def __init__(self, n_steps: int) -> None:
        self.n_steps, self.epoch = n_steps, 0

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, step) for step in range(self.n_steps)])


class PatchDataset(Dataset[dict[str, Any]]):
    """(epoch, step) -> {"image" (B, 1, Z, Y, X), "label" (B, Z, Y, X), "drawn" (B, C), "patient" names}: one patch from
    each of B patients, chosen by seed, epoch and step alone."""

    def __init__(self, cases: Sequence[Case], config: Config, rank: int = 0, world_size: int = 1) -> None:
        self.cases, self.config, self.rank, self.world_size = cases, config, rank, world_size
        self.drawn = [drawn_classes(case, config.n_classes) for case in cases]

    def __getitem__(self, when: tuple[int, int]) -> dict[str, Any]:
        rng = np.random.default_rng([self.config.seed, *when])
        chosen = rng.permutation(len(self.cases))[:self.config.batch_size]
        chosen = np.resize(chosen, math.ceil(len(chosen) / self.world_size) * self.world_size)  # equal shares
        chosen = chosen[self.rank::self.world_size]
        patches = [draw_patch(self.cases[i], np.random.default_rng([self.config.seed, *when, i]), self.config)
                   for i in chosen]
        return {"image": torch.from_numpy(np.stack([image for image, _ in patches]))[:, None],
                "label": torch.from_numpy(np.stack([label for _, label in patches])),
                "drawn": torch.from_numpy(np.stack([self.drawn[i] for i in chosen])),
                "patient": [self.cases[i]["patient"] for i in chosen]}


def drawn_classes(case: Case, n_classes: int) -> Floats:
    """(C,) of 0 and 1: which classes were drawn in a case; the background always is."""
    flags = np.isin(np.arange(n_classes), case["label"])
    flags[0] = True
    return flags.astype(np.float32)


def draw_patch(case: Case, rng: np.random.Generator, config: Config) -> list[Array]:
    """(image, label) patches at a random place of the case; zeros beyond its edges."""
    shape, patch = case["image"].shape, config.patch_zyx
    start = [int(rng.integers(0, max(0, length - side) + 1)) for length, side in zip(shape, patch)]
    if config.augment:
        return zoomed_and_rotated(case, np.add(start, np.subtract(patch, 1) / 2), rng, config)
    pair = []
    for volume in (case["image"], case["label"]):
        part = volume[tuple(slice(first, first + side) for first, side in zip(start, patch))]
        pair.append(np.pad(part, [(0, side - length) for side, length in zip(patch, part.shape)]))
    return pair


def zoomed_and_rotated(case: Case, centre: Floats, rng: np.random.Generator, config: Config) -> list[Array]:
    """(image, label) patches around `centre` (voxels), sampled from the whole volume; rotated in mm, not in voxels."""
    zoom, angle = rng.choice(config.zooms), np.radians(rng.uniform(-1, 1) * config.rotate_degrees)
    first, second = rng.choice(3, 2, replace=False)  # axes of the plane of rotation
    rotation = np.eye(3)
    rotation[[first, second], [first, second]] = np.cos(angle)
    rotation[first, second], rotation[second, first] = -np.sin(angle), np.sin(angle)
    spacing = np.array(case["spacing_zyx"])
    matrix = rotation * spacing / spacing[:, None] / zoom  # voxels to mm, turn, mm to voxels
    offset = centre - matrix @ (np.subtract(config.patch_zyx, 1) / 2)
    return [ndimage.affine_transform(volume, matrix, offset, config.patch_zyx, order=order)
            for volume, order in ((case["image"], 1), (case["label"], 0))]
