"""The optional second look at candidates: a small classifier of patches. Needs Keras, loaded where it is used."""
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from lung_nodule_nasnet.checkpoint import load_checkpoint, save_checkpoint, set_weights
from shared_data.errors import InputError
from shared_data.named_types import Floats, Row
from shared_data.settings import note_constants

if TYPE_CHECKING:
    import keras

PATCH = 32  # pixels
PATCH_MM = 1.0  # a pixel, in all scans
WINDOW_HU = (-1000.0, 400.0)
CONSTANTS = {"PATCH_MM": PATCH_MM, "WINDOW_HU": WINDOW_HU}  # kept in checkpoints


def build_reducer() -> "keras.Model":
    """Patches (B, 32, 32, 1) in [0, 1] -> probabilities (B, 2): nothing, nodule. The authors' layers."""
    from lung_nodule_nasnet import quiet  # noqa: F401
    import keras
    from keras import layers
    return keras.Sequential([
        layers.Input((PATCH, PATCH, 1)), layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(), layers.Dropout(0.25), layers.Flatten(),
        layers.Dense(32, activation="relu"), layers.Dropout(0.5), layers.Dense(2, activation="softmax")])


def cut_patch(image: sitk.Image, place_xyz: Sequence[float]) -> Floats:
    """(32, 32) float32 in [0, 1]: the axial surroundings of a place (mm, LPS) in a CT stored in LPS order."""
    x, y, z = image.TransformPhysicalPointToContinuousIndex(tuple(map(float, place_xyz)))
    hu = sitk.GetArrayViewFromImage(image)
    if not -0.5 <= z <= len(hu) - 0.5:
        raise InputError(f"a candidate at {tuple(place_xyz)} mm lies outside its scan. Is it the list of another scan?")
    offsets = (np.arange(PATCH) - (PATCH - 1) / 2) * PATCH_MM
    spacing = image.GetSpacing()
    rows, columns = np.meshgrid(y + offsets / spacing[1], x + offsets / spacing[0], indexing="ij")
    plane = hu[int(np.clip(round(z), 0, len(hu) - 1))].astype(np.float32)
    patch = ndimage.map_coordinates(plane, [rows, columns], order=1, mode="constant", cval=WINDOW_HU[0])
    low, high = WINDOW_HU
    return np.clip((patch - low) / (high - low), 0, 1).astype(np.float32)


def save_reducer(path: Path, network: "keras.Model", facts: Row) -> None:
    state = {"config": {}, "constants": CONSTANTS, **facts}
    save_checkpoint(path, state, "reducer", weights=[v.numpy() for v in network.variables])


def load_reducer(path: Path) -> "keras.Model":
    state, groups = load_checkpoint(path, "reducer")
    note_constants(state.get("constants"), CONSTANTS, path)
    network = build_reducer()
    set_weights(network, groups.get("weights", []), path)
    return network


def rate(network: "keras.Model", nodules: list[Row], image: sitk.Image) -> list[Row]:
    """The nodules with the reducer's probability in place of their own, the most probable first."""
    if not nodules:
        return nodules
    patches = np.stack([cut_patch(image, [nodule[f"coord{axis}"] for axis in "XYZ"]) for nodule in nodules])
    rated = network.predict(patches[..., None], verbose=0)[:, 1]
    return sorted(({**nodule, "probability": float(value)} for nodule, value in zip(nodules, rated)),
                  key=lambda nodule: -nodule["probability"])
