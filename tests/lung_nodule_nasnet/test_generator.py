"""Batches: augmentation as the authors', repeatable whoever loads them."""
import json
import pickle

import numpy as np
import pytest

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence, augment, turned
from lung_nodule_nasnet.slice_idx import read_split
from lung_nodule_nasnet.table import read_columns
from shared_data.errors import InputError


@pytest.mark.parametrize("number", range(3))
def test_rotation_and_flips_are_the_authors(golden, number):
    values = np.load(golden / "prep_nasnet_augment.npz")
    facts = json.loads((golden / "prep_nasnet_augment.json").read_text())
    case, centre = facts["cases"][number], facts["rotation_centre"]
    image, label = (turned(values[name].astype(np.float32), case["theta"], centre=centre)
                    for name in ("image", "label"))
    for flip, axis in (("flip_horizontal", 1), ("flip_vertical", 0)):
        if case[flip]:
            image, label = np.flip(image, axis), np.flip(label, axis)
    assert np.abs(image - values[f"image_{number}"]).max() < 1e-6
    assert np.abs(label - values[f"soft_label_{number}"]).max() < 1e-6
    assert np.array_equal(label.astype(np.uint8), values[f"final_label_{number}"])


def test_ours_keeps_the_nodule_whole(golden):
    values = np.load(golden / "prep_nasnet_augment.npz")
    turned_label = turned(values["label"], 6.0, order=0)
    assert abs(int(turned_label.sum()) - 114) <= 3  # theirs leaves 92 of 114
    assert set(np.unique(turned_label)) == {0, 1}
    back = turned(turned(values["image"], 5.0), -5.0)
    assert np.abs(back - values["image"])[8:-8, 8:-8].mean() < 0.35 * values["image"].std()


def test_image_and_mask_move_together():
    y, x = np.mgrid[:64, :64]
    mask = (((y - 20) ** 2 + (x - 40) ** 2) <= 36).astype(np.uint8)
    for seed in range(8):
        image, label = augment(mask.astype(np.float32), mask, np.random.default_rng(seed), Config(zoom=0.1))
        assert ((image > 0.5) == (label > 0)).mean() > 0.995


@pytest.fixture
def sequence(prepared):
    indices = read_split(prepared, len(read_columns(prepared / "table.h5")["series_uids"]))["train"]
    return SliceSequence(prepared / "table.h5", indices, Config(batch_size=4, workers=0, size=64), augmented=True)


def test_epochs_differ_and_repeat(sequence, prepared):
    first = [sequence[i] for i in range(len(sequence))]
    sequence.epoch = 1
    second = [sequence[i] for i in range(len(sequence))]
    again = pickle.loads(pickle.dumps(sequence))
    assert all(np.array_equal(a, b) for one, two in zip(second, (again[i] for i in range(len(again))))
               for a, b in zip(one, two))
    assert not np.array_equal(first[0][0], second[0][0])
    assert sum(len(image) for image, _ in first) == len(sequence.indices)
    image, reference = first[0]
    assert image.shape == (4, 64, 64, 1) and reference.shape == (4, 64, 64, 2) and np.all(reference.sum(-1) == 1)


def test_no_device_gets_an_empty_part(prepared):
    def batches(n, devices, augmented=True):
        return len(SliceSequence(prepared / "table.h5", range(n), Config(batch_size=6, devices=devices), augmented))

    assert [batches(n, 2) for n in (18, 19, 20)] == [3, 3, 4]
    assert batches(19, 1) == batches(19, 2, augmented=False) == 4


def test_worker_processes_give_the_same_batches(sequence, prepared):
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
    parallel = SliceSequence(prepared / "table.h5", sequence.indices, Config(batch_size=4, workers=2, size=64), True)
    adapter = PyDatasetAdapter(parallel)
    stream = adapter._get_iterator()
    for number in range(len(sequence)):
        one, other = sequence[number], next(stream)
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
    adapter.enqueuer.stop()


def test_a_damaged_table_is_named(sequence, prepared, tmp_path):
    whole = bytearray((prepared / "table.h5").read_bytes())
    whole[len(whole) // 4:len(whole) // 2] = bytes(len(whole) // 2 - len(whole) // 4)
    (tmp_path / "table.h5").write_bytes(whole)
    with pytest.raises(InputError, match="table.h5"):
        broken = SliceSequence(tmp_path / "table.h5", sequence.indices, sequence.config, True)
        for number in range(len(broken)):
            broken[number]
