"""Slices with their organs in colour, and where the members disagree."""
import cv2
import numpy as np

from shared_data.pictures import contact_sheet

COLOURS = cv2.cvtColor(np.array([[(label * 67 % 180, 210, 255) for label in range(256)]], np.uint8),
                       cv2.COLOR_HSV2RGB)[0]
SIDE = 320  # pixels of width


def organ_overlay(unit_yx, labels_yx):
    """RGB (height, SIDE, 3) of a slice in [0, 1], each label filled in a colour of its own."""
    picture = _magnified(unit_yx)
    labels = cv2.resize(labels_yx.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    blended = (0.45 * picture + 0.55 * COLOURS[labels]).astype(np.uint8)
    return np.where((labels > 0)[..., None], blended, picture)


def entropy_overlay(unit_yx, entropy_yx):
    """RGB of a slice, brighter and warmer where the votes' entropy is higher (ln 2: yellow)."""
    picture = _magnified(unit_yx)
    entropy = cv2.resize(entropy_yx, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    heat = cv2.applyColorMap((np.clip(entropy / np.log(2), 0, 1) * 230).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.where((entropy > 0.01)[..., None], heat[..., ::-1], picture // 2)


def _magnified(unit_yx):
    size = (SIDE, max(1, round(unit_yx.shape[0] * SIDE / unit_yx.shape[1])))
    grey = cv2.resize((np.clip(unit_yx, 0, 1) * 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def case_sheet(unit_zyx, label_maps, entropy_zyx=None, tiles=4):
    """Contact sheet of the slices with most organs; a row for each {caption: labels (z, y, x)}, and one for the entropy
    of the votes."""
    organs = sum(np.array([len(np.unique(plane)) - 1 for plane in labels]) for labels in label_maps.values())
    order = np.argsort(-organs, kind="stable") if organs.any() else np.linspace(0, len(organs) - 1, tiles).astype(int)
    chosen = sorted({int(k) for k in order[:3 * tiles:3] if organs[k] or not organs.any()}) or [0]
    pictures = [(organ_overlay(unit_zyx[k], labels[k]), f"{caption}, slice {k}")
                for caption, labels in label_maps.items() for k in chosen]
    if entropy_zyx is not None:
        pictures += [(entropy_overlay(unit_zyx[k], entropy_zyx[k]), f"uncertainty, slice {k}") for k in chosen]
    return contact_sheet(pictures, columns=len(chosen))
