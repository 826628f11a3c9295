"""Window exact against the golden values; crops go back where they came from."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_data.crop import centre_crop, undo_crop
from snet_neck_ln.slices import STEPS, to_8bit, to_16bit, window, with_context


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_window_equals_the_authors(golden, kind):
    arrays = np.load(golden / "prep_snet_window.npz")
    hu = arrays[f"hu_{kind}"]
    before = hu.copy()
    assert np.array_equal(window(hu), arrays[f"norm_{kind}"])
    assert np.array_equal(to_8bit(window(hu)), arrays[f"out8_{kind}"])
    assert np.array_equal(hu, before)


@given(st.lists(st.floats(-2000, 4000), min_size=1), st.floats(-500, 500), st.floats(1, 3000))
def test_any_window_lies_in_0_to_1_and_keeps_the_order(values, center, width):
    unit = window(np.array(sorted(values)), center, width)
    assert 0 <= unit.min() and unit.max() <= 1 + 1e-12 and (np.diff(unit) >= 0).all()
    assert np.abs(to_16bit(unit) / STEPS - unit).max() <= 0.5 / STEPS + 1e-9


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_crop_and_back(height, width, size):
    plane = np.random.default_rng(0).integers(1, 9, (2, height, width))
    cropped = centre_crop(plane, size)
    restored = undo_crop(cropped, (height, width))
    assert cropped.shape == (2, size, size) and restored.shape == plane.shape
    assert (restored[restored != 0] == plane[restored != 0]).all()
    assert (restored != 0).sum() == (cropped != 0).sum() == 2 * min(height, size) * min(width, size)
    if size >= max(height, width):
        assert np.array_equal(restored, plane)


def test_context_is_zero_beyond_the_ends():
    volume = np.arange(1, 5)[:, None, None] * np.ones((4, 2, 2), int)
    assert with_context(volume, 0, 2)[:, 0, 0].tolist() == [0, 0, 1, 2, 3]
    assert with_context(volume, 3, 1)[:, 0, 0].tolist() == [3, 4, 0]
