"""Slices to tensors: balanced, repeatable, image and mask moved together."""
import numpy as np
import pytest

from shared_data.errors import InputError
from snet_neck_ln.config import Config
from snet_neck_ln.dataset import BalancedSampler, SliceDataset, augment, build_loaders


def test_an_epoch_is_every_positive_and_as_many_negatives_drawn_afresh():
    sampler = BalancedSampler(10, 100, Config())
    epochs = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        indices = [index for index, _ in sampler]
        assert len(indices) == len(sampler) == len(set(indices)) == 20
        assert set(range(10)) <= set(indices)
        epochs.append(indices)
    assert epochs[0] == epochs[2] != epochs[1]
    assert len(BalancedSampler(10, 3, Config())) == 13


def test_processes_share_an_epoch_evenly():
    shares = [[index for index, _ in BalancedSampler(5, 4, Config(), rank, 2)] for rank in (0, 1)]
    assert [len(share) for share in shares] == [5, 5]
    assert set(shares[0]) | set(shares[1]) == set(range(9))


def test_augmentation_moves_image_and_mask_together():
    y, x = np.ogrid[:64, :64]
    mask = ((y - 20) ** 2 + (x - 35) ** 2 <= 100).astype(np.uint8)
    image = mask[None].astype(np.float32)
    seen = set()
    for seed in range(30):
        moved, moved_mask = augment(image, mask, np.random.default_rng(seed), Config())
        assert (moved[0] > 0.5).sum() == pytest.approx(moved_mask.sum(), abs=16)
        assert ((moved[0] > 0.5) != moved_mask.astype(bool)).sum() <= 16
        seen.add(moved_mask.tobytes())
    assert len(seen) > 10
    still = Config(rotate_probability=0, flip_probability=0, rot90_probability=0)
    assert np.array_equal(augment(image, mask, np.random.default_rng(0), still)[0], image)


def test_items_depend_on_their_seed_only(prepared):
    config = Config(size=32, prepared_dir=prepared)
    data = SliceDataset(prepared, ["P1/files/2.npz"], config)
    one, again, other = data[0, (1, 2)], data[0, (1, 2)], data[0, (1, 3)]
    assert one["image"].equal(again["image"]) and not one["image"].equal(other["image"])
    plain = data[0]
    assert plain["image"].shape == plain["mask"].shape == (1, 32, 32) and plain["patient"] == "P1"
    assert 0 <= plain["image"].min() and plain["image"].max() <= 1


def test_context_slices_are_channels(prepared):
    config = Config(size=32, context_slices=1)
    data = SliceDataset(prepared, [f"P1/files/{k}.npz" for k in range(5)], config)
    images = [data[k]["image"] for k in range(5)]
    assert images[2].shape == (3, 32, 32)
    assert images[0][0].eq(0).all() and images[4][2].eq(0).all()
    assert images[2][0].equal(images[1][1]) and images[2][2].equal(images[3][1])


def test_workers_load_the_same_batches(prepared):
    batches = []
    for workers in (0, 2):
        loader, _ = build_loaders(Config(size=32, batch_size=4, prepared_dir=prepared, workers=workers))
        batches.append([batch["image"] for batch in loader])
    assert all(one.equal(other) for one, other in zip(*batches, strict=True))


def test_damaged_and_absent_slices_are_named(prepared, tmp_path):
    (tmp_path / "P1" / "files").mkdir(parents=True)
    (tmp_path / "P1" / "files" / "0.npz").write_bytes((prepared / "P1" / "files" / "0.npz").read_bytes()[:200])
    data = SliceDataset(tmp_path, ["P1/files/0.npz", "P1/files/1.npz"], Config())
    for index, message in ((0, "0.npz: damaged"), (1, "1.npz: a slice of the folds is gone")):
        with pytest.raises(InputError, match=message):
            data[index]
