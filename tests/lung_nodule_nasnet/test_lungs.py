"""Lung masks and two-class cuts: equal to the authors', exact, and sensible where theirs are not defined."""
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lung_nodule_nasnet.lungs import CROP, extract_lungs, network_mask, network_slice, onto_slice, to_matrix
from lung_nodule_nasnet.postprocess import slice_mask
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.two_means import stopped_two_means_threshold, two_means_threshold


@pytest.mark.parametrize("name", ["a", "b"])
def test_lungs_are_the_authors(golden, name):
    values = np.load(golden / "prep_nasnet_processimage.npz")
    facts = json.loads((golden / "prep_nasnet_processimage.json").read_text())["slices"][name]
    lungs = extract_lungs(values[f"image_{name}"])
    assert np.array_equal(lungs.mask, values[f"mask_{name}"]) and lungs.mask.sum() == facts["mask_pixels"]
    assert lungs.threshold == pytest.approx(facts["threshold"], abs=1e-12)
    assert np.abs(lungs.image[CROP, CROP][::4, ::4] - values[f"output_{name}_sub"]).max() < 1e-6
    assert np.abs(lungs.image[250] - values[f"output_{name}_row250"]).max() < 1e-6


def test_the_cut_of_a_probability_map(golden):
    values = np.load(golden / "prep_nasnet_threshold.npz")
    facts = json.loads((golden / "prep_nasnet_threshold.json").read_text())
    theirs = Config(threshold_rule="authors")
    assert np.array_equal(slice_mask(values["prob"], theirs), values["mask"])
    eroded = slice_mask(values["prob"], Config(threshold_rule="authors", erode=True))
    assert np.array_equal(eroded, values["eroded"])
    assert stopped_two_means_threshold(values["prob"]) == pytest.approx(facts["probability_threshold"], abs=1e-6)
    # The authors' iteration stops before the best cut; ours is that cut: one pixel of 160,000 less.
    assert int((slice_mask(values["prob"], Config()) != values["mask"]).sum()) == 1


def squared_distance(values, cut):
    parts = [values[values < cut], values[values >= cut]]
    return sum(((part - part.mean()) ** 2).sum() for part in parts if len(part))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=40), st.booleans())
def test_no_other_cut_is_better(numbers, whole):
    values = np.array(numbers) if whole else np.array(numbers) / 7
    cut = two_means_threshold(values)
    middles = np.convolve(np.unique(values), [0.5, 0.5], "valid")
    best = min((squared_distance(values, middle) for middle in middles), default=0)
    assert squared_distance(values, cut) <= best + 1e-6 * (1 + best)


def test_degenerate_values():
    assert two_means_threshold(np.full((3, 3), 5)) == 5 and two_means_threshold([0.0, 1.0]) == 0.5
    assert two_means_threshold(np.full(7, 0.1, np.float32)) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least one"):
        two_means_threshold([])
    constant = extract_lungs(np.full((512, 512), -1000, np.int16))
    assert not constant.mask.any() and not constant.image.any()


def test_a_slice_without_nodule_stays_empty_but_not_by_the_authors_rule():
    noise = np.random.default_rng(0).uniform(0.01, 0.03, (64, 64)).astype(np.float32)
    assert not slice_mask(noise, Config()).any()
    assert 0.4 < slice_mask(noise, Config(threshold_rule="authors")).mean() < 0.6


@pytest.mark.parametrize("size", [400, 128])
@pytest.mark.parametrize("shape", [(512, 512), (128, 128), (768, 700), (300, 411)])
def test_other_matrices_come_back_onto_themselves(shape, size):
    y, x = np.ogrid[:shape[0], :shape[1]]
    blob = ((y - shape[0] / 2.2) / (shape[0] * 0.08)) ** 2 + ((x - shape[1] / 1.8) / (shape[0] * 0.08)) ** 2 <= 1
    back = onto_slice(network_mask(blob, size).astype(np.uint8), shape) > 0
    assert 2 * (blob & back).sum() / (blob.sum() + back.sum()) > 0.9
    pixel = max(shape) * 400 / 512 / size
    assert np.abs(np.argwhere(back).mean(0) - np.argwhere(blob).mean(0)).max() < 0.4 * max(1, pixel)
    hu = np.where(blob, 40, -1000).astype(np.int16)
    assert to_matrix(hu).shape == (512, 512) and network_slice(hu, 100).shape == (100, 100)


def test_morphology_has_the_authors_footprints():
    from lung_nodule_nasnet.lungs import DILATE, ERODE
    point, hole = np.zeros((40, 40), np.uint8), np.ones((40, 40), np.uint8)
    point[20, 20], hole[20, 20] = 1, 0
    grown = np.argwhere(cv2.dilate(point, DILATE, anchor=(4, 4))) - 20
    eaten = np.argwhere(cv2.erode(hole, ERODE, anchor=(1, 1)) == 0) - 20
    assert (grown.min(), grown.max(), eaten.min(), eaten.max()) == (-5, 4, -2, 1)
