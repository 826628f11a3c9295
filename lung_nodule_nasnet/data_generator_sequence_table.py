"""Batches of slices out of the table, for Keras; read and augmented in several processes."""
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tables
from scipy import ndimage
from tables import HDF5ExtError

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.table import open_slices
from shared_data.errors import InputError
from shared_data.named_types import Array, Floats


class SliceSequence(keras.utils.PyDataset):
    """Batches (images (B, size, size, 1) float32, one-hot references (B, size, size, 2) float32) of `indices`.

    augmented: order and augmentation come from (seed, epoch, index), so that an epoch is the same whoever makes it;
    set `epoch` before each. The table is opened in the process that reads it.
    """

    def __init__(self, path: Path, indices: Sequence[int], config: Config, augmented: bool, **kwargs: Any) -> None:
        super().__init__(workers=max(1, config.workers), use_multiprocessing=config.workers > 0, **kwargs)
        self.path, self.indices, self.config, self.augmented = path, np.asarray(indices), config, augmented
        self.epoch = 0
        self._table: tables.File | None = None
        self._owner: int | None = None
        self._creator = os.getpid()

    def __len__(self) -> int:
        whole, rest = divmod(len(self.indices), self.config.batch_size)
        return whole + (rest >= (self.config.devices if self.augmented else 1))  # no device trains on an empty part

    def __getitem__(self, number: int) -> tuple[Floats, Floats]:
        order = self.indices
        if self.augmented:
            order = np.random.default_rng([self.config.seed, self.epoch]).permutation(order)
        chosen = order[number * self.config.batch_size:(number + 1) * self.config.batch_size]
        with self.opened() as table:
            images, planes = zip(*(self.slice(table, int(index)) for index in chosen))
        masks = np.stack(planes)
        return np.stack(images)[..., None], np.stack([masks == 0, masks > 0], -1).astype(np.float32)

    def slice(self, table: tables.File, index: int) -> tuple[Array, Array]:
        """(image float32, mask uint8) of one slice of the table, augmented where this sequence is."""
        try:
            image, mask = table.root.data[index], table.root.truth[index]
        except HDF5ExtError as error:
            raise InputError(f"{self.path}: slice {index} cannot be read. Run table.py again.") from error
        if self.augmented:
            rng = np.random.default_rng([self.config.seed, self.epoch, index])
            image, mask = augment(image, mask, rng, self.config)
        return image, mask

    @contextmanager
    def opened(self) -> Iterator[tables.File]:
        """The table; a loading process keeps it open, the one that starts them does not."""
        if os.getpid() == self._creator:
            with open_slices(self.path) as table:
                yield table
            return
        if self._owner != os.getpid():
            self._table, self._owner = open_slices(self.path), os.getpid()
        yield self._table

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_table": None, "_owner": None}


def augment(image: Array, mask: Array, rng: np.random.Generator, config: Config) -> tuple[Array, Array]:
    """Flips along both axes, rotation and zoom, drawn from `rng`."""
    degrees = rng.uniform(-config.rotate_degrees, config.rotate_degrees)
    zoom = 1 + rng.uniform(-config.zoom, config.zoom)
    image, mask = turned(image, degrees, zoom), turned(mask, degrees, zoom, order=0)
    for axis in (0, 1):
        if rng.random() < config.flip_probability:
            image, mask = np.flip(image, axis), np.flip(mask, axis)
    return image, mask


def turned(plane: Array, degrees: float, zoom: float = 1.0, order: int = 1,
           centre: Sequence[float] | None = None) -> Array:
    """A slice turned counter-clockwise about its middle and magnified; beyond its border its edge goes on.

    order: 1 interpolates linearly (images), 0 takes the nearest pixel (masks). centre: (row, column); unset: the
    middle.
    """
    if degrees == 0 and zoom == 1:
        return plane
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    fixed = (np.array(plane.shape) - 1) / 2 if centre is None else np.array(centre)
    return ndimage.affine_transform(plane, matrix, fixed - matrix @ fixed, order=order, mode="nearest")
