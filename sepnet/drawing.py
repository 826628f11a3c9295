"""Pictures of slices with their organs in colour, and of where the members disagree."""
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from shared_data.named_types import Floats, Labels, Rgb
from shared_results.organ_pictures import SIDE, organ_sheet
from shared_results.pictures import magnified


def entropy_overlay(unit_yx: Floats, entropy_yx: Floats) -> Rgb:
    """RGB (height, SIDE, 3) of a slice in [0, 1], warmer where the votes' entropy is higher (ln 2: yellow)."""
    picture = magnified(unit_yx, SIDE)
    entropy = cv2.resize(entropy_yx, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    heat = cv2.applyColorMap((np.clip(entropy / np.log(2), 0, 1) * 230).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.where((entropy > 0.01)[..., None], heat[..., ::-1], picture // 2)


def case_sheet(unit_zyx: Floats, label_maps: Mapping[str, Labels], classes: Sequence[str],
               entropy_zyx: Floats | None = None, tiles: int = 4) -> Rgb:
    """Contact sheet with a row for each {caption: labels (z, y, x)}, and one for the entropy of the votes, of at most
    `tiles` slices: every third of those with most organs. classes: names of the labels 0, 1, ..."""
    n_organs = np.sum([[len(np.unique(plane)) - 1 for plane in labels] for labels in label_maps.values()], axis=0)
    if n_organs.any():
        fullest = np.argsort(-n_organs, kind="stable")
        chosen = sorted(int(k) for k in fullest[:3 * tiles:3] if n_organs[k])
    else:
        spread = np.linspace(0, len(n_organs) - 1, tiles).astype(int)
        chosen = sorted({int(k) for k in spread[::3]})
    votes = []
    if entropy_zyx is not None:
        votes = [(entropy_overlay(unit_zyx[k], entropy_zyx[k]), f"uncertainty, slice {k}") for k in chosen]
    return organ_sheet(unit_zyx, label_maps, chosen, dict(enumerate(classes)), below=votes)
