"""From prepared slices to batches of tensors."""
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from shared_data.crop import centre_crop
from shared_data.errors import InputError
from shared_data.folds import natural_sort
from shared_data.named_types import Array, Labels, StrPath
from snet_neck_ln.config import Config
from snet_neck_ln.process_data.data_parser import read_fold
from snet_neck_ln.slices import STEPS

Drawn = tuple[int, tuple[int, int, int]]  # (index of a slice, seed of its augmentation)
Loader = DataLoader[dict[str, Any]]  # batches of items of `SliceDataset`


def build_loaders(config: Config, rank: int = 0, world_size: int = 1) -> tuple[Loader, Loader]:
    """(training, validation) loaders of the fold; each process (`rank` of `world_size`) gets its share of the slices.

    Raises InputError when either has no slice with a node.
    """
    positives, negatives = read_fold(config.prepared_dir, config.val_fold, "train")
    val_positives, val_negatives = read_fold(config.prepared_dir, config.val_fold, "valid")
    for part, paths in (("train", positives), ("valid", val_positives)):
        if not paths:
            raise InputError(f"{config.prepared_dir}: no slice in {part}_with_node.txt of fold {config.val_fold}. Take "
                             "another --val-fold, or more patients.")
    train = SliceDataset(config.prepared_dir, positives + negatives, config)
    val = SliceDataset(config.prepared_dir, natural_sort(val_positives + val_negatives), config)
    sampler = BalancedSampler(len(positives), len(negatives), config, rank, world_size)
    common: dict[str, Any] = {
        "batch_size": max(1, config.batch_size // world_size), "num_workers": config.workers,
        "persistent_workers": config.workers > 0, "pin_memory": torch.cuda.is_available()}
    return (DataLoader(train, sampler=sampler, **common),
            DataLoader(val, sampler=range(rank, len(val), world_size), **common))


class BalancedSampler(Sampler[Drawn]):
    """All slices with a node and `negatives_per_positive` times as many without, drawn anew for each value of `epoch`.

    Yields (index, seed of the augmentation), on which alone depends what a worker makes. The first `n_positive` indices
    are the slices with a node.
    """

    def __init__(self, n_positive: int, n_negative: int, config: Config, rank: int = 0, world_size: int = 1) -> None:
        self.n_positive, self.n_negative, self.seed = n_positive, n_negative, config.seed
        self.n_drawn = min(n_negative, round(n_positive * config.negatives_per_positive))
        self.rank, self.world_size = rank, world_size
        self.epoch = 0  # no set_epoch(): Fabric would call it with its own count, which ignores resuming

    def __len__(self) -> int:
        return math.ceil((self.n_positive + self.n_drawn) / self.world_size)

    def __iter__(self) -> Iterator[Drawn]:
        rng = np.random.default_rng([self.seed, self.epoch])
        negatives = self.n_positive + rng.choice(self.n_negative, self.n_drawn, replace=False)
        drawn = rng.permutation([*range(self.n_positive), *negatives])
        drawn = np.resize(drawn, len(self) * self.world_size)  # equal shares: the first ones are repeated
        return iter([(int(i), (self.seed, self.epoch, int(i))) for i in drawn[self.rank::self.world_size]])


class SliceDataset(Dataset[dict[str, Any]]):
    """{"image": (2n + 1, size, size) in [0, 1], "mask": (1, size, size), "patient": name} of the slices at `paths`.

    An index returns the slice as it is, (index, seed) augments it.
    """

    def __init__(self, prepared_dir: StrPath, paths: Sequence[str], config: Config) -> None:
        self.root, self.paths, self.config = Path(prepared_dir), paths, config

    def __len__(self) -> int:
        return len(self.paths)

    def patients(self) -> set[str]:
        return {path.split("/")[0] for path in self.paths}

    def __getitem__(self, index: int | Drawn) -> dict[str, Any]:
        index, seed = index if isinstance(index, tuple) else (index, None)
        path = self.root / self.paths[index]
        image, mask = self._read(path)
        if seed is not None:
            image, mask = augment(image, mask, np.random.default_rng(seed), self.config)
        size = self.config.size
        return {"image": torch.from_numpy(centre_crop(image, size)), "patient": path.parent.parent.name,
                "mask": torch.from_numpy(centre_crop(mask, size)[None].astype(np.float32))}

    def _read(self, path):
        """((2n + 1, y, x) float32 in [0, 1], (y, x) uint8)"""
        k, n = int(path.stem), self.config.context_slices
        image, mask = read_slice(path)
        channels = []
        for i in range(k - n, k + n + 1):
            neighbour = path.with_name(f"{i}.npz")
            if i == k:
                channels.append(image)
            else:
                channels.append(read_slice(neighbour)[0] if neighbour.exists() else np.zeros_like(image))
        return np.stack(channels).astype(np.float32) / STEPS, mask


def read_slice(path: Path) -> tuple[Labels, Labels]:
    """(image uint16, mask uint8), both (y, x), of a prepared slice. Raises InputError for a missing or damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            image, mask = arrays["image"], arrays["mask"]
        if image.shape != mask.shape or image.ndim != 2 or image.dtype != np.uint16:
            raise ValueError("not a slice")
        return image, mask
    except FileNotFoundError:
        raise InputError(f"{path}: a slice of the folds is gone. Run data_process_lymph_node.py again.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged slice. Delete the patient's prepared folder, and prepare again.") from error


def augment(image: Array, mask: Array, rng: np.random.Generator, config: Config) -> tuple[Array, Array]:
    """A small rotation, a vertical flip and quarter turns, the same for image (C, Y, X) and mask (Y, X)."""
    if rng.random() < config.rotate_probability:
        angle = rng.uniform(*config.rotate_degrees) * rng.choice([-1, 1])
        height, width = mask.shape
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
        image = np.stack([cv2.warpAffine(channel, matrix, (width, height), flags=cv2.INTER_LINEAR)
                          for channel in image])
        mask = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST)
    if rng.random() < config.flip_probability:
        image, mask = image[:, ::-1], mask[::-1]
    if rng.random() < config.rot90_probability:
        quarters = int(rng.integers(1, 4))
        image, mask = np.rot90(image, quarters, (1, 2)), np.rot90(mask, quarters)
    return image, mask
