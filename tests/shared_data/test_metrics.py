"""Scores against known answers and against MONAI."""
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy import ndimage

from shared_data.cohort import overgrown_notes
from shared_data.metrics import (bootstrap_interval, detection, detection_by_size, dice, list_components, overgrown,
                                 short_axis_mm, spread, surface_distances)

SPACING_XYZ = (0.7, 0.9, 3.0)


def blobs(seed):
    """Two related smooth masks; some reach the edge of the volume."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((16, 30, 36)), (1, 3, 3))
    other = field + 0.3 * ndimage.gaussian_filter(rng.standard_normal(field.shape), (1, 3, 3))
    return field > field.std(), other > field.std()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_surface_distances_agree_with_monai(seed):
    reference, prediction = blobs(seed)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": SPACING_XYZ[::-1]}
    ours = surface_distances(reference, prediction, SPACING_XYZ)
    assert ours["hd95_mm"] == pytest.approx(
        compute_hausdorff_distance(*tensors, percentile=95, **options).item(), rel=1e-5)
    assert ours["assd_mm"] == pytest.approx(
        compute_average_surface_distance(*tensors, symmetric=True, **options).item(), rel=1e-5)


def test_known_distances():
    first, second = np.zeros((2, 8, 20, 20), bool)
    first[2, 5, 5] = second[4, 5, 8] = True
    apart = math.hypot(2 * 3.0, 3 * 0.7)
    assert surface_distances(first, second, SPACING_XYZ) == pytest.approx({"hd95_mm": apart, "assd_mm": apart})
    assert surface_distances(first, first, SPACING_XYZ) == {"hd95_mm": 0, "assd_mm": 0}
    assert dice(first, first) == 1 and dice(first, second) == 0


def test_absent_is_neither_0_nor_1():
    empty, full = np.zeros((3, 4, 4), bool), np.ones((3, 4, 4), bool)
    assert math.isnan(dice(empty, empty)) and dice(empty, full) == 0
    assert math.isnan(surface_distances(empty, empty, SPACING_XYZ)["hd95_mm"])
    assert math.isinf(surface_distances(empty, full, SPACING_XYZ)["assd_mm"])
    assert detection(empty, empty, SPACING_XYZ) == ([], 0)


def test_nodes_are_found_one_by_one():
    reference, prediction = np.zeros((2, 6, 40, 40), bool)
    reference[1:3, 2:8, 2:8] = reference[1:3, 20:26, 20:26] = reference[4, 30:33, 5:8] = True
    prediction[1, 4:9, 4:9] = prediction[4, 32, 7] = True  # touch two nodes
    prediction[0, 35:38, 35:38] = prediction[5, 0, 0] = True  # touch none
    nodes, false_positives = detection(reference, prediction, SPACING_XYZ)
    assert [node["found"] for node in nodes] == [True, False, True]
    assert false_positives == 2
    assert nodes[0]["volume_ml"] == pytest.approx(72 * 0.7 * 0.9 * 3 / 1000)


def test_short_axis_of_an_ellipse():
    y, x = np.ogrid[-20:20, -20:20]
    node = np.zeros((3, 40, 40), bool)
    node[1] = (y * 0.9 / 5) ** 2 + (x * 0.7 / 8) ** 2 <= 1
    assert short_axis_mm(node, SPACING_XYZ) == pytest.approx(10, rel=0.05)


def test_nodes_are_counted_by_short_axis_and_scores_summed_where_finite():
    nodes = [{"short_axis_mm": 4.0, "found": False}, {"short_axis_mm": 12.0, "found": True}]
    rows = {row["short axis"]: row["sensitivity"] for row in detection_by_size(nodes)}
    assert rows["all"] == 0.5 and rows["< 5 mm"] == 0 and rows[">= 10 mm"] == 1 and math.isnan(rows["5-10 mm"])
    assert spread([1, 3, math.nan, math.inf, None]) == {"mean": 2, "std": 1, "median": 2, "n": 2}
    assert spread([])["n"] == 0 and math.isnan(spread([])["mean"])


def test_components_are_listed_largest_first_and_placed_in_mm():
    mask = np.zeros((6, 10, 10), bool)
    mask[1, 1:3, 1:3], mask[4:6, 5:8, 5:8] = True, True
    grid = sitk.GetImageFromArray(mask.astype(np.uint8))
    grid.SetSpacing((1.0, 1.0, 2.0))
    grid.SetOrigin((10.0, 20.0, 30.0))
    large, small = list_components(mask, grid)
    assert large["volume_ml"] == pytest.approx(0.036) and small["volume_ml"] == pytest.approx(0.008)
    assert large["centre_xyz_mm"] == pytest.approx((16, 26, 39)) and small["centre_xyz_mm"] == pytest.approx(
        (11.5, 21.5, 32))


def test_a_class_that_fills_more_than_half_of_a_case_is_named():
    labels = np.zeros((2, 2, 3), np.uint8)
    assert not overgrown(labels, 4).any()
    labels[0], labels[1, 0, 0] = 2, 2
    assert overgrown(labels, 4).tolist() == [False, False, True, False]
    lines = overgrown_notes([overgrown(labels, 4), np.zeros(4, bool)], ("background", "a", "b", "c"))
    assert lines == ["note: b fills more than half of 1 of 2 cases: not an organ yet"]


def test_bootstrap_intervals_hold_the_mean_and_shrink_with_more_patients():
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.7, 0.1, 20), rng.normal(0.7, 0.1, 500)
    for values in (few, many):
        low, high = bootstrap_interval(values)
        expected = 1.96 * values.std() / len(values) ** 0.5
        assert low < values.mean() < high and (high - low) / 2 == pytest.approx(expected, rel=0.1)
    assert bootstrap_interval([0.5, math.inf, math.nan]) == (0.5, 0.5)
    assert all(map(math.isnan, bootstrap_interval([math.nan])))
