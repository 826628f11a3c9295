"""Outlines along the edges of pixels, and what fills them: exact both ways, for every reader's way of filling."""
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared_data.contours import filled, outlines, slabs

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
SQUARE = np.array([(2, 3), (8, 3), (8, 7), (2, 7)], float)


def area(polygon):
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    return abs((x * next_y - next_x * y).sum() / 2)


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_outlines_and_back_is_the_same_mask(mask):
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask)
    assert sum(map(area, polygons)) == pytest.approx(mask.sum(), rel=5e-3)  # for those who compute volumes from areas
    united = np.zeros_like(mask)
    for polygon in polygons:  # for those who unite contours
        part = filled([polygon], mask.shape)
        assert not (united & part).any()
        united |= part
    assert np.array_equal(united, mask)


def test_holes_islands_and_frames_within_frames():
    mask = np.zeros((31, 31), bool)
    for inset, value in enumerate((1, 0, 1, 0, 1)):
        mask[3 * inset + 1:30 - 3 * inset, 3 * inset + 1:30 - 3 * inset] = value
    mask[2, 5], mask[3, 9:12] = False, False  # two holes more
    assert len(outlines(mask)) == 3
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)


@settings(max_examples=300, deadline=None)
@given(arrays(bool, st.tuples(st.integers(2, 12), st.integers(2, 12))), st.sampled_from([1, 2]))
def test_contours_through_the_centres_of_the_outermost_pixels_give_those_too(mask, how):
    """As rt-utils and others draw them, holes, single pixels and lines included."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, how)
    assert np.array_equal(filled([contour[:, 0].astype(float) for contour in found], mask.shape), mask)


@pytest.mark.parametrize("polygons, pixels", [
    ([SQUARE + 0.5], 6 * 4), ([SQUARE], 7 * 5), ([SQUARE + 0.5] * 2, 0), ([SQUARE, np.roll(SQUARE, 1, 0)[::-1]], 0),
    ([SQUARE + 0.5] * 3, 24), ([SQUARE + 0.5, SQUARE + (6.5, 0.5)], 2 * 24),  # repeated; side by side
    ([SQUARE + 0.5, SQUARE + (3.5, 0.5)], 2 * 12), ([SQUARE + 100], 0), ([SQUARE - (5, 5.5)], 4 * 2), ([], 0),
    ([np.array([[4.0, 5.0]])], 1), ([np.array([[4.2, 5.0]])], 0)])
def test_polygons_are_combined_by_xor_and_cut_at_the_border(polygons, pixels):
    assert filled(polygons, (20, 30)).sum() == pixels


def test_thousands_of_points_on_a_circle():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    circle = 200 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + 255.3
    y, x = np.indices((512, 512))
    away = np.hypot(x - 255.3, y - 255.3) - 200
    wrong = filled([circle], (512, 512)) != (away < 0)
    assert wrong.sum() < 30 and abs(away[wrong]).max() < 0.015  # on the line


@pytest.mark.parametrize("planes, spacing, low, high", [
    ([0, 1, 2], 2.5, [-0.5, 0.5, 1.5], [0.5, 1.5, 2.5]),
    ([3.5], 2.5, [3], [4]),  # between two slices
    ([0, 1, 10, 11], 2.5, [-0.5, 0.5, 9.5, 10.5], [0.5, 1.5, 10.5, 11.5]),  # two parts
    ([0, 2, 4], 2.5, [-1, 1, 3], [1, 3, 5]),  # every other slice
    ([0, 4, 8, 9, 10], 1, [-2, 2, 6, 8.5, 9.5], [2, 6, 8.5, 9.5, 10.5]),  # 4 mm, then 1 mm
    ([0, 9, 18], 2.5, [-0.5, 8.5, 17.5], [0.5, 9.5, 18.5]),  # 22.5 mm apart: three parts
    ([0, 0.5, 1], 2.5, [-0.25, 0.25, 0.75], [0.25, 0.75, 1.25])])  # finer than the slices
def test_what_stretch_a_contoured_plane_stands_for(planes, spacing, low, high):
    assert np.allclose(slabs(np.array(planes, float), spacing), (low, high))
