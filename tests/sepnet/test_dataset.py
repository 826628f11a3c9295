"""Patches: repeatable, patients not twice in a batch, image and label moved together."""
from dataclasses import replace

import numpy as np
import pytest

from sepnet.config import Config
from sepnet.dataset import PatchDataset, build_loader, draw_patch, load_cases
from shared_data.errors import InputError


@pytest.fixture
def config(prepared):
    return Config(prepared_dir=prepared, crop_size=48, patch_zyx=(16, 24, 16), batch_size=2, workers=0,
                  steps_per_epoch=3)


def test_no_patient_is_twice_in_a_batch_and_what_is_drawn_depends_on_epoch_and_step(config):
    patches = PatchDataset(load_cases(config, "train"), config)
    seen = set()
    for epoch in range(4):
        for step in range(4):
            batch, again = patches[epoch, step], patches[epoch, step]
            assert batch["image"].shape == (2, 1, 16, 24, 16) and batch["label"].shape == (2, 16, 24, 16)
            assert batch["image"].equal(again["image"]) and batch["label"].equal(again["label"])
            assert len(set(batch["patient"])) == 2
            seen.add(batch["image"].numpy().tobytes())
    assert len(seen) == 16


def test_processes_share_a_batch(config):
    cases = load_cases(config, "train")
    whole = PatchDataset(cases, config)[0, 0]["patient"]
    assert [PatchDataset(cases, config, rank, 2)[0, 0]["patient"][0] for rank in (0, 1)] == whole


def test_workers_draw_the_same(config):
    batches = [[batch["image"] for batch in build_loader(replace(config, workers=workers, augment=True))]
               for workers in (0, 1)]
    assert all(one.equal(other) for one, other in zip(*batches, strict=True))


def test_augmentation_moves_image_and_label_together_by_true_angles():
    z, y, x = np.ogrid[:24, :64, :64]
    label = (((z - 12) * 3.0) ** 2 + (y - 32) ** 2 + (x - 30) ** 2 <= 18 ** 2).astype(np.uint8)  # a ball, in mm
    case = {"image": label.astype(np.float32), "label": label, "spacing_zyx": (3.0, 1.0, 1.0)}
    config = Config(augment=True, patch_zyx=(24, 64, 64), zooms=(1.0, 1.0, 1.0))
    for seed in range(12):
        image, moved = draw_patch(case, np.random.default_rng(seed), config)
        assert ((image > 0.5) != (moved > 0)).sum() < 0.03 * label.sum()
        assert abs(int(moved.sum()) / int(label.sum()) - 1) < 0.05  # turning in mm keeps the volume
        spread = np.std(np.argwhere(moved), axis=0) * (3, 1, 1)
        assert spread.max() / spread.min() < 1.1  # and keeps the ball round
    zoomed = Config(**{**vars(config), "zooms": (0.8, 0.8, 0.8)})
    assert draw_patch(case, np.random.default_rng(0), zoomed)[1].sum() < 0.65 * label.sum()


def test_short_cases_are_padded():
    case = {"image": np.ones((9, 20, 40), np.float32), "label": np.ones((9, 20, 40), np.uint8),
            "spacing_zyx": (1, 1, 1)}
    image, label = draw_patch(case, np.random.default_rng(0), Config(patch_zyx=(16, 32, 32)))
    assert image.shape == label.shape == (16, 32, 32) and image.sum() == 9 * 20 * 32


def test_absent_volumes_are_named(config, tmp_path):
    with pytest.raises(InputError, match="cases.csv: no such file"):
        load_cases(Config(prepared_dir=tmp_path), "train")
    (tmp_path / "cases.csv").write_text("part,case\ntrain,1\n")
    with pytest.raises(InputError, match="cases.csv: no valid case in it. Run preprocess.py again."):
        load_cases(Config(prepared_dir=tmp_path), "valid")
    for transform, message in (("multi_thresh_1", "multi_thresh_1.nii.gz: no such file"),
                               ("single_window", "--plain-window")):
        with pytest.raises(InputError, match=message):
            load_cases(Config(prepared_dir=tmp_path, transform=transform), "train")
