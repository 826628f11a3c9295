"""The network over all slices of a CT."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.lungs import lung_mask, network_slice, onto_slice
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.scans import whole_hu
from lung_nodule_nasnet.windows import ct_map
from shared_data.named_types import Array, Floats, Labels, Progress
from shared_data.volume import to_lps
from shared_results.views import FlipTurn, mean_of_views

if TYPE_CHECKING:
    import keras


def segment(networks: "Sequence[keras.Model] | keras.Model", image: sitk.Image, config: Config,
            progress: Progress = iter) -> tuple[Labels, Floats, sitk.Image]:
    """(mask uint8, probability float32), both (z, y, x) on the LPS form of a CT in HU, and that form itself; of one
    network, or of the mean of several.

    progress: wraps the batches, tqdm say. The cut of each slice is found on the network's own grid; of windows, on the
    CT's.
    """
    return segment_members(networks if isinstance(networks, list) else [networks], image, config, progress)[:3]


def segment_members(networks: "Sequence[keras.Model]", image: sitk.Image, config: Config,
                    progress: Progress = iter) -> tuple[Labels, Floats, sitk.Image, Labels | None]:
    """The same, and of several networks each one's own mask (members, z, y, x), otherwise None."""
    ct = whole_hu(to_lps(image))
    hu = sitk.GetArrayViewFromImage(ct)
    if config.window:
        mask, probability, votes = segment_windows(networks, hu, ct.GetSpacing()[1::-1], config, progress)
        return mask, probability, ct, votes
    mask, probability = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    votes = np.zeros((len(networks), *hu.shape), np.uint8) if len(networks) > 1 else None
    for start in progress(range(0, len(hu), config.predict_batch)):
        planes = range(start, min(start + config.predict_batch, len(hu)))
        batch = np.stack([network_slice(hu[k], config.size) for k in planes])
        batch = np.concatenate([batch, np.zeros((config.predict_batch - len(batch), *batch.shape[1:]), batch.dtype)])
        mean, each = nodule_probability(networks, batch[..., None])
        for i, k in enumerate(planes):
            probability[k] = onto_slice(np.ascontiguousarray(mean[i]), hu.shape[1:])
            mask[k] = onto_slice(slice_mask(mean[i], config), hu.shape[1:])
            if votes is not None:
                for member, own in enumerate(each):
                    votes[member, k] = onto_slice(slice_mask(own[i], config), hu.shape[1:])
    return mask, probability, ct, votes


def views_of(config: Config) -> list[FlipTurn]:
    """The flips that a network's training slices had, the slice as it is first."""
    return [FlipTurn(axes) for axes in (((), (0,), (1,), (0, 1)) if config.flip_probability else ((),))]


@dataclass(frozen=True)
class Averaged:
    """A network that gives the mean over views of its slices."""

    network: Any
    views: list[FlipTurn]

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """(B, Y, X, 1) -> probabilities (B, Y, X, C)."""
        return mean_of_views(self.network.predict_on_batch, images, self.views, np, (1, 2))


def nodule_probability(networks: "Sequence[keras.Model]", images: Floats) -> tuple[Floats, list[Floats]]:
    """(mean over the networks, each one's own (members, ...)): probability (B, Y, X) of nodule in images (B, Y, X, 1).
    """
    each = [network.predict_on_batch(images)[..., 1] for network in networks]
    return each[0] if len(each) == 1 else np.mean(each, axis=0), each


def segment_windows(networks: "Sequence[keras.Model]", hu: Array, spacing_yx: Sequence[float], config: Config,
                    progress: Progress) -> tuple[Labels, Floats, Labels | None]:
    """(mask, probability, votes as in `segment_members`) of HU (z, y, x) by small windows within the lungs."""
    mask, probability = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    votes = np.zeros((len(networks), *hu.shape), np.uint8) if len(networks) > 1 else None
    forwards = [on_windows(network) for network in networks]
    for k in progress(range(len(hu))):
        lungs = lung_mask(hu[k])
        if lungs.any():
            each = [ct_map(forward, hu[k], lungs, spacing_yx, config) for forward in forwards]
            probability[k] = each[0] if len(each) == 1 else np.mean(each, axis=0)
            mask[k] = slice_mask(probability[k], config)
            if votes is not None:
                for member, own in enumerate(each):
                    votes[member, k] = slice_mask(own, config)
    return mask, probability, votes


def on_windows(network: "keras.Model") -> Callable[[Floats], Floats]:
    """Windows (n, size, size) -> nodule probabilities (n, size, size), for `probability_map`."""
    return lambda windows: network.predict_on_batch(windows[..., None])[..., 1]
