"""The network over all slices of a CT."""
import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.lungs import network_slice, onto_slice
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.scans import whole_hu
from shared_data.volume import to_lps


def segment(networks, image, config, progress=iter):
    """(mask uint8, probability float32), both (z, y, x) on the LPS form of a CT in HU, and that form itself; of one
    network, or of the mean of several.

    progress: wraps the batches, tqdm say. The cut of each slice is found on the network's own grid.
    """
    return segment_members(networks if isinstance(networks, list) else [networks], image, config, progress)[:3]


def segment_members(networks, image, config, progress=iter):
    """The same, and of several networks each one's own mask (members, z, y, x), otherwise None."""
    ct = whole_hu(to_lps(image))
    hu = sitk.GetArrayViewFromImage(ct)
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
            for member, own in enumerate(each if votes is not None else ()):
                votes[member, k] = onto_slice(slice_mask(own[i], config), hu.shape[1:])
    return mask, probability, ct, votes


def nodule_probability(networks, images):
    """(mean over the networks, each one's own (members, ...)): probability (B, Y, X) of nodule in images (B, Y, X, 1).
    """
    each = [network.predict_on_batch(images)[..., 1] for network in networks]
    return each[0] if len(each) == 1 else np.mean(each, axis=0), each
