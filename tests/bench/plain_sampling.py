"""Drawing one augmented training example as the projects do it, against reading its files anew and moving it with
SciPy, as one would write it at first. Full size, one process, files in the page cache.

    python -m tests.bench.run plain_sampling        (SepNet: sepnet_patches; NASNet-GCN: lung_plain)
"""
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from focusnet_v2.augment import augment
from focusnet_v2.config import Config as FocusNetConfig
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from focusnet_v2.dataset import PatchDataset, load_cases
from shared_data.phantoms import write_neck_cohort
from shared_data.phantoms_head import write_pddca_cohort
from snet_neck_ln.config import Config as SNetConfig
from snet_neck_ln.dataset import SliceDataset
from snet_neck_ln.process_data import data_process_lymph_node
from tests.bench import plain_preparation

DRAWN = 20  # examples


def run():
    with tempfile.TemporaryDirectory() as folder:
        return {**snet(Path(folder)), **focusnet(Path(folder))}


def snet(folder):
    raw, prepared, plain = folder / "raw_snet", folder / "snet", folder / "plain_snet"
    write_neck_cohort(raw, patients=1, size=512, slices=60)
    data_process_lymph_node.main(["--data-dir", str(raw), "--prepared-dir", str(prepared)])
    plain.mkdir()
    plain_preparation.snet(raw, plain)
    slices = SliceDataset(prepared, sorted(str(path.relative_to(prepared)) for path in prepared.rglob("[0-9]*.npz")),
                          SNetConfig(prepared_dir=prepared))
    paths, rng = sorted(plain.glob("*.npz")), np.random.default_rng(0)

    def one(k):
        with np.load(paths[k % len(paths)]) as arrays:
            image, mask = arrays["image"], arrays["mask"]
        if rng.random() < slices.config.rotate_probability:
            angle = rng.uniform(*slices.config.rotate_degrees)
            image, mask = (ndimage.rotate(each, angle, reshape=False, order=order)
                           for each, order in ((image, 1), (mask, 0)))
        image, mask = image[64:448, 64:448], mask[64:448, 64:448]
        return torch.from_numpy(image.copy())[None], torch.from_numpy(mask.copy())[None]

    return {"snet: sampling, plain / ours": seconds(one) / seconds(lambda k: slices[k % len(slices), k])}


def focusnet(folder):
    raw, prepared, plain = folder / "raw_focusnet", folder / "focusnet", folder / "plain_focusnet"
    write_pddca_cohort(raw, patients=3, size=256, slices=100)
    for script in (data_preprocess, crop_data):
        script.main(["--prepared-dir", str(prepared), *(["--data-dir", str(raw)] if script is data_preprocess else [])])
    plain_preparation.focusnet(raw, plain)
    config = FocusNetConfig(prepared_dir=prepared)
    patches = PatchDataset(load_cases(config, "train"), config, config.wide_zoom_xy)
    cases, rng = sorted(plain.iterdir()), np.random.default_rng(0)

    def one(k):
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(str(cases[k % len(cases)] / f"{name}.nrrd")))
                        for name in ("image", "label"))
        start = [rng.integers(0, max(1, length - side + 1)) for length, side in zip(image.shape, config.patch_zyx)]
        box = tuple(slice(at, at + side) for at, side in zip(start, config.patch_zyx))
        turn = Rotation.from_euler("zyx", rng.uniform(-15, 15, 3), degrees=True)
        matrix = turn.as_matrix() * rng.uniform(0.8, 1.2, 3)
        offset = (np.array(config.patch_zyx) - 1) / 2
        return [ndimage.affine_transform(each[box].astype(np.float32), matrix, offset - matrix @ offset, order=order)
                for each, order in ((image, 1), (label, 0))]

    def ours(k):
        item = patches[0, k]
        return augment({name: value[None] for name, value in item.items() if torch.is_tensor(value)}, config)

    return {"focusnet: sampling, plain / ours": seconds(one) / seconds(ours)}


def seconds(draw):
    """Of DRAWN examples, after one to warm up."""
    draw(0)
    start = time.perf_counter()
    for k in range(DRAWN):
        draw(k)
    return time.perf_counter() - start
