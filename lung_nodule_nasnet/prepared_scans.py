"""The slices of a scan that the table holds, as a volume: neighbours in the scan touch, others are kept apart."""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.table import Columns
from shared_data.named_types import Array, Floats, Mask, Row
from shared_results.sweep import sweep, without_small


@dataclass(frozen=True)
class PreparedScan:
    """Some slices of a scan; planes are arrays (n, Y, X) of them."""

    slice_index: Sequence[int]  # in the scan, increasing
    spacing_zyx: Sequence[float]  # mm, NaN where it is not known

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.spacing_zyx) / 1000

    def volume(self, planes: Array) -> Array:
        """The planes, with an empty one wherever slices of the scan are missing."""
        places = self._places()
        volume = np.zeros((places[-1] + 1, *planes.shape[1:]), planes.dtype)
        volume[places] = planes
        return volume

    def without_small(self, masks: Mask, smallest_ml: float) -> Mask:
        """Masks (n, Y, X) without components smaller than that."""
        return without_small(self.volume(masks), self.voxel_ml, smallest_ml)[self._places()]

    def sweep(self, probability: Floats, reference: Mask, masks: Mask, config: Config) -> tuple[list[Row], list[Row]]:
        """What `sweep` says of planes; each cut is made as predict.py would with --threshold-rule cut."""
        def mask_at(cut: float) -> Array:
            return self.volume(slice_masks(probability, replace(config, threshold_rule="cut", cut=cut)))

        return sweep(self.volume(probability), self.volume(reference), self.volume(masks), self.voxel_ml, mask_at)

    def _places(self):
        return np.arange(len(self.slice_index)) + np.cumsum([0, *(np.diff(self.slice_index) > 1)])


def prepared_scan(rows: Sequence[int], columns: Columns) -> PreparedScan:
    """Of rows of the table."""
    return PreparedScan([columns["slice_index"][row] for row in rows], columns["spacing_zyx"][rows[0]].tolist())


def slice_masks(probability: Floats, config: Config) -> Mask:
    """Masks (n, Y, X) of the probabilities, each slice cut by itself."""
    return np.stack([slice_mask(plane, config) > 0 for plane in probability])
