"""The network over all slices of a CT."""
import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.lungs import lung_mask, network_slice, onto_slice
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.scans import whole_hu
from lung_nodule_nasnet.windows import ct_map
from shared_data.volume import to_lps


def segment(network, image, config, progress=iter):
    """(mask uint8, probability float32), both (z, y, x) on the LPS form of a CT in HU, and that form itself.

    progress: wraps the batches, tqdm say. The cut of each slice is found on the network's own grid; of windows, on the
    CT's.
    """
    ct = whole_hu(to_lps(image))
    hu = sitk.GetArrayViewFromImage(ct)
    if config.window:
        return *segment_windows(network, hu, ct.GetSpacing()[1::-1], config, progress), ct
    mask, probability = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    for start in progress(range(0, len(hu), config.predict_batch)):
        planes = range(start, min(start + config.predict_batch, len(hu)))
        batch = np.stack([network_slice(hu[k], config.size) for k in planes])
        batch = np.concatenate([batch, np.zeros((config.predict_batch - len(batch), *batch.shape[1:]), batch.dtype)])
        for k, nodule in zip(planes, network.predict_on_batch(batch[..., None])[..., 1]):
            probability[k] = onto_slice(np.ascontiguousarray(nodule), hu.shape[1:])
            mask[k] = onto_slice(slice_mask(nodule, config), hu.shape[1:])
    return mask, probability, ct


def segment_windows(network, hu, spacing_yx, config, progress):
    """(mask, probability) of HU (z, y, x) by small windows within the lungs."""
    mask, probability = np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.float32)
    forward = on_windows(network)
    for k in progress(range(len(hu))):
        lungs = lung_mask(hu[k])
        if lungs.any():
            probability[k] = ct_map(forward, hu[k], lungs, spacing_yx, config)
            mask[k] = slice_mask(probability[k], config)
    return mask, probability


def on_windows(network):
    """Windows (n, size, size) -> nodule probabilities (n, size, size), for `probability_map`."""
    return lambda windows: network.predict_on_batch(windows[..., None])[..., 1]
