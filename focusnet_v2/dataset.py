"""Prepared cases, held in memory, to batches of patches (networks) or of small-organ masks (auto-encoder)."""
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import SimpleITK as sitk
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from focusnet_v2.augment import draw_theta
from focusnet_v2.cases import cases_of, read_presence
from focusnet_v2.config import Config
from focusnet_v2.grids import cut, unit
from focusnet_v2.heatmaps import heatmaps, organ_centres
from shared_data.errors import InputError
from shared_data.named_types import Array, Floats, Labels
from shared_data.volume import check_same_grid, read_volume

When = tuple[int, int]  # (epoch, index)
Loader = DataLoader[dict[str, Any]]


class Case(TypedDict):
    """A prepared case in memory; arrays (z, y, x)."""

    case: str
    image: Labels  # HU, int16
    label: Labels
    spacing_zyx: Sequence[float]  # mm
    presence: list[int]  # 1 or 0 for each class
    centres: Floats  # (n_small, 3), NaN where missing


def load_cases(config: Config, part: str) -> list[Case]:
    """[{"case", "image" HU int16, "label" uint8, both (z, y, x), "spacing_zyx" mm, "presence", "centres"}]"""
    presence = read_presence(config)
    cases: list[Case] = []
    for name in cases_of(config, part):
        if name not in presence:
            raise InputError(f"{config.prepared_dir / 'presence.csv'}: case {name} is missing. Run crop_data.py again.")
        folder = config.prepared_dir / "cropped" / name
        image, label = read_volume(folder / "image.nrrd"), read_volume(folder / "label.nrrd")
        check_same_grid(image, label, folder / "label.nrrd")
        labels = sitk.GetArrayFromImage(label)
        if not np.isin(np.unique(labels), range(config.n_classes)).all():
            raise InputError(f"{folder / 'label.nrrd'}: labels above {config.n_classes - 1}. Prepare the case again.")
        cases.append({"case": name, "image": sitk.GetArrayFromImage(image), "label": labels,
                      "spacing_zyx": image.GetSpacing()[::-1], "presence": presence[name],
                      "centres": organ_centres(labels, config.small_labels)})
    return cases


def build_loader(dataset: "PatchDataset | MaskDataset", batch_size: int, config: Config, rank: int = 0,
                 world_size: int = 1) -> Loader:
    """Batches of a data set; each process gets its share of a batch and of an epoch."""
    order = Order(len(dataset), max(1, batch_size // world_size), config.seed, rank, world_size)
    return DataLoader(dataset, batch_sampler=order, pin_memory=torch.cuda.is_available())


class Order(Sampler[list[When]]):
    """[(epoch, index), ...] of each batch. No set_epoch(): Fabric would call it with its own count, which forgets a
    resumed run."""

    def __init__(self, n_items: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def __len__(self) -> int:
        return math.ceil(self._share() / self.batch_size)

    def __iter__(self) -> Iterator[list[When]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_items)
        mine = np.resize(order, self._share() * self.world_size)[self.rank::self.world_size]  # equal shares
        for first in range(0, len(mine), self.batch_size):
            yield [(self.epoch, int(index)) for index in mine[first:first + self.batch_size]]

    def _share(self):
        return math.ceil(self.n_items / self.world_size)


class PatchDataset(Dataset[dict[str, Any]]):
    """(epoch, index) -> {"image" (1, Z, Y, X) in `unit`, "label" (1, Z, Y, X), "presence" (C,), "small" (n_small,)
    which small organs the case has and the patch holds the centre of, "theta" (3, 4), "case", and with heatmaps
    "heatmap" (n_small, Z, Y, X)}. The background is present wherever `undrawn` is "marginal".

    What is drawn depends on the seed, the epoch, the index and nothing else.
    """

    def __init__(self, cases: Sequence[Case], config: Config, in_plane_zoom: float, with_heatmap: bool = False,
                 top_share: float = 0.0) -> None:
        for case in cases:
            if any(np.less(case["image"].shape[1:], config.patch_zyx[1:])):
                raise InputError(f"{config.prepared_dir / 'cropped' / case['case']}: slices of "
                                 f"{case['image'].shape[1:]} voxels, smaller than --patch-zyx. Run crop_data.py with "
                                 "the same --patch-zyx.")
        self.cases = [padded(case, config.min_slices) for case in cases]
        self.config, self.in_plane_zoom = config, in_plane_zoom
        self.with_heatmap, self.top_share = with_heatmap, top_share

    def __len__(self) -> int:
        return len(self.cases) * self.config.patches_per_case

    def __getitem__(self, when: When) -> dict[str, Any]:
        config, case = self.config, self.cases[when[1] % len(self.cases)]
        rng = np.random.default_rng([config.seed, *when])
        start, shape = draw_start(rng, case["image"].shape, config, self.top_share), config.patch_zyx
        theta = draw_theta(rng, config, self.in_plane_zoom).astype(np.float32)
        return {"image": torch.from_numpy(unit(cut(case["image"], start, shape))[None]),
                "theta": torch.from_numpy(theta), "case": case["case"],
                **targets_at(case, start, shape, config, self.with_heatmap)}


def targets_at(case: Case, start: Sequence[int] | Array, shape: Sequence[int], config: Config,
               with_heatmap: bool) -> dict[str, torch.Tensor]:
    """What a part of a case, from the voxel `start`, teaches: "label", "presence", "small" and "heatmap" as in
    `PatchDataset`."""
    centres = case["centres"] - start
    inside = ((centres >= 0) & (centres < shape)).all(1)  # False for NaN
    present = np.array(case["presence"], np.float32)
    if config.undrawn == "marginal":
        present[0] = 1
    targets = {"label": torch.from_numpy(cut(case["label"], start, shape)[None].copy()),
               "presence": torch.from_numpy(present),
               "small": torch.from_numpy(present[list(config.small_labels)] * inside)}
    if with_heatmap:
        targets["heatmap"] = torch.from_numpy(heatmaps(centres, shape, config.heatmap_sigma, config.heatmap_offsets))
    return targets


def draw_start(rng: np.random.Generator, shape_zyx: Sequence[int], config: Config, top_share: float = 0.0) -> Labels:
    """First voxel of a random patch; along z from the highest `adv_top_offsets` with probability `top_share`."""
    free = np.subtract(shape_zyx, config.patch_zyx)
    start = rng.integers(0, free + 1)
    if rng.random() < top_share:
        start[0] = rng.integers(max(0, free[0] + 1 - config.adv_top_offsets), free[0] + 1)
    return start


def padded(case: Case, min_slices: int) -> Case:
    """A case with slices added at the low end, up to `min_slices`: edge values, label 0 (authors)."""
    short = max(0, min_slices - len(case["image"]))
    start, shape = (-short, 0, 0), (len(case["image"]) + short, *case["image"].shape[1:])
    return {**case, "image": cut(case["image"], start, shape, "edge"), "label": cut(case["label"], start, shape),
            "centres": case["centres"] - start}


class MaskDataset(Dataset[dict[str, torch.Tensor]]):
    """(epoch, index) -> {"mask" (1, *box_zyx) of 0 and 1}: a small organ of a case in a box near its centre.

    jitter_zyx: largest shift in voxels; the authors' code for this stage is not public.
    """

    def __init__(self, cases: Sequence[Case], config: Config, jitter_zyx: Sequence[int] = (0, 0, 0)) -> None:
        self.config, self.jitter_zyx = config, np.array(jitter_zyx)
        self.masks = [(case, i) for case in cases for i in range(config.n_small)
                      if not np.isnan(case["centres"][i]).any()]

    def __len__(self) -> int:
        return len(self.masks) * self.config.patches_per_case

    def __getitem__(self, when: When) -> dict[str, torch.Tensor]:
        case, i = self.masks[when[1] % len(self.masks)]
        rng = np.random.default_rng([self.config.seed, *when])
        shift = rng.integers(-self.jitter_zyx, self.jitter_zyx + 1)
        start = case["centres"][i].astype(int) + shift - np.array(self.config.box_zyx) // 2
        box = cut(case["label"], start, self.config.box_zyx)
        return {"mask": torch.from_numpy((box == self.config.small_labels[i]).astype(np.float32)[None])}
