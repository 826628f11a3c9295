"""The network over all slices of a CT."""
import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.lungs import network_slice, onto_slice
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.scans import whole_hu
from shared_data.volume import to_lps


def segment(network, image, config, progress=iter):
    """(mask uint8, probability float32), both (z, y, x) on the LPS form of a CT in HU, and that form itself.

    progress: wraps the batches, tqdm say. The cut of each slice is found on the network's own grid.
    """
    ct = whole_hu(to_lps(image))
    hu = sitk.GetArrayViewFromImage(ct)
    mask, probability = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    for start in progress(range(0, len(hu), config.predict_batch)):
        planes = range(start, min(start + config.predict_batch, len(hu)))
        batch = np.stack([network_slice(hu[k], config.size) for k in planes])
        batch = np.concatenate([batch, np.zeros((config.predict_batch - len(batch), *batch.shape[1:]), batch.dtype)])
        for k, nodule in zip(planes, network.predict_on_batch(batch[..., None])[..., 1]):
            probability[k] = onto_slice(np.ascontiguousarray(nodule), hu.shape[1:])
            mask[k] = onto_slice(slice_mask(nodule, config), hu.shape[1:])
    return mask, probability, ct
