"""Windows of crops: what they show, where they lie, what becomes of a slice; the weights that learnt from them."""
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from lung_nodule_nasnet import postprocess, predict, preprocess
from lung_nodule_nasnet.checkpoint import SHIPPED
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.slice_idx import read_split
from lung_nodule_nasnet.table import open_slices, read_columns
from lung_nodule_nasnet.windows import BATCH, ct_map, probability_map, scaled
from shared_data.errors import InputError
from shared_data.files import write_table
from tests.bench import lidc_crops

CONFIG = replace(Config(), window=48, size=96)


def bright(windows):
    assert windows.shape == (BATCH, 96, 96) and windows.dtype == np.float32
    return (windows > 0.5).astype(np.float32)


@pytest.fixture
def chest():
    """Lung of -850 HU with a nodule of 12x10 pixels and, 150 pixels off, a vessel."""
    hu = np.random.default_rng(0).normal(-850, 5, (150, 260)).astype(np.int16)
    hu[70:82, 40:50] = 30
    hu[100:104, 200:204] = 30
    return hu


def test_grey_values_are_those_of_the_two_tissues_whatever_their_unit(chest):
    seen = scaled(chest)
    assert np.allclose(seen, scaled(3 * chest.astype(np.int32) + 1000), atol=1e-5)
    assert abs(seen[chest < -700].mean()) < 0.01 and np.allclose(seen[chest > 0], 1, atol=0.01)


def test_a_slice_is_covered_by_windows_and_marked_in_place(chest):
    everywhere = np.ones(chest.shape, bool)
    assert np.allclose(probability_map(np.ones_like, chest, everywhere, CONFIG), 1, atol=1e-3)
    found = probability_map(bright, chest, everywhere, CONFIG, least=300) > 0.5
    assert np.array_equal(found, chest > -400)


def test_nothing_is_marked_outside_the_lungs(chest):
    lungs = np.zeros(chest.shape, np.uint8)
    lungs[:, :100] = 1
    found = ct_map(bright, chest, lungs, (0.7, 0.7), CONFIG) > 0.5
    assert np.array_equal(found, (chest > -400) & (lungs > 0))


def test_pixels_of_unusual_size_and_small_slices_keep_their_grid(chest):
    coarse = chest[::3, ::3]
    values = ct_map(bright, coarse, np.ones(coarse.shape, np.uint8), (2.1, 2.1), CONFIG)
    assert values.shape == coarse.shape and ((values > 0.5) != (coarse > -400)).sum() <= 6


def test_one_cut_for_all_slices():
    probability = np.zeros((8, 8), np.float32)
    probability[2:5, 2:5] = 0.6
    assert postprocess.slice_mask(probability, replace(CONFIG, threshold_rule="cut", cut=0.5)).sum() == 9
    assert not postprocess.slice_mask(probability, replace(CONFIG, threshold_rule="cut", cut=0.7)).any()


def test_whole_scans_are_not_prepared_as_windows(raw, tmp_path):
    with pytest.raises(InputError, match="--window"):
        preprocess.main(["--data-dir", str(raw), "--prepared-dir", str(tmp_path), "--window", "48"])


def test_crops_become_a_table_with_patients_apart(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    rows = [{"row": k, "part": part, "patient": f"P{k // 2}", "nodule": "n", "slice": k, "pixel_spacing_mm": 0.7}
            for k, part in enumerate(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)]
    votes = np.zeros((8, 128, 128), np.uint8)
    votes[:, 60:68, 60:68] = 3
    votes[1, votes[1] > 0] = 1
    image = np.where(votes > 0, 250, rng.integers(0, 40, votes.shape)).astype(np.uint8)
    np.savez_compressed(tmp_path / "slices.npz", image=image, votes=votes)
    write_table(tmp_path / "slices.csv", rows)
    prepared = tmp_path / "prepared"
    monkeypatch.setattr(sys, "argv", ["", "--data", str(tmp_path), "--prepared-dir", str(prepared)])
    lidc_crops.main()
    columns = read_columns(prepared / "table.h5")
    split = read_split(prepared, len(columns["subject_ids"]))
    assert {columns["subject_ids"][i] for i in split["train"]} == {"P0", "P1"}
    assert {columns["subject_ids"][i] for i in split["validation"]} == {"P2"}
    assert columns["has_nodule"].sum() == 2 * 5 and (~columns["has_nodule"]).sum() == 6  # one has no consensus
    with open_slices(prepared / "table.h5") as table:
        data, truth = table.root.data[:], table.root.truth[:]
    centres = [np.argwhere(mask).mean(0) for mask in truth if mask.any()]
    assert np.ptp(centres, 0).min() > 20  # not always in the middle
    inside = np.stack([truth[i] for i in range(len(truth))]) > 0
    assert data[inside].mean() > 0.9 and data[~columns["has_nodule"]].max() < 0.5


def test_without_a_checkpoint_the_weights_that_ship_mark_on_the_grid_of_the_ct(luna, tmp_path, capsys):
    assert SHIPPED.stat().st_size < 12e6
    scan, output = min(luna.rglob("*.mhd")), tmp_path / "mask.nii.gz"
    predict.main(["--input", str(scan), "--output", str(output), "--device", "cpu"])
    assert "weights: " in capsys.readouterr().out
    ct, mask = sitk.ReadImage(str(scan)), sitk.ReadImage(str(output))
    assert mask.GetSize() == ct.GetSize() and np.allclose(mask.GetOrigin(), ct.GetOrigin(), atol=1e-3)
