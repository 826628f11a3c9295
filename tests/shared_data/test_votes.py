"""Disagreement of contours, whatever the votes."""
import numpy as np
import pytest

from shared_data.organs import organs_found
from shared_data.votes import disagreement, most_disputed, vote_entropy, vote_levels


def test_entropy_and_levels_of_three_members():
    votes = np.array([[0, 1, 1, 2], [0, 1, 0, 1], [0, 0, 1, 0]], np.uint8)
    assert vote_entropy(votes) == pytest.approx([-1e-5, 0.6365, 0.6365, 1.0986], abs=1e-4)
    levels, splits = vote_levels(votes)
    assert [splits[level] for level in levels] == ["3", "2+1", "2+1", "1+1+1"]


def test_disagreement_is_that_of_the_contours_voxels():
    entropy = np.array([[-1e-5, 0.6, 0.2], [0.9, -1e-5, 0.0]], np.float32)
    labels = np.array([[1, 1, 3], [0, 4, 3]], np.uint8)
    rows = disagreement(entropy, labels, [1, 2, 3, 4])
    assert rows[1] == {"disagreement": pytest.approx(0.3, abs=1e-4), "disputed": 0.5}
    assert rows[2] == {"disagreement": None, "disputed": None}
    assert rows[3] == {"disagreement": pytest.approx(0.1), "disputed": 0.5}
    assert rows[4] == {"disagreement": 0, "disputed": 0}
    assert disagreement(entropy, np.zeros((2, 3), np.uint8), []) == {}


def test_the_contour_to_check_first_is_named():
    organs = [{"organ": name, "volume_ml": 1.0, "components": 1, "disagreement": value}
              for name, value in (("a", 0.1), ("b", 0.3), ("c", None))]
    assert organs_found(organs)["row"]["check first"] == "b" and organs_found(organs)["row"]["disagreement"] == 0.3
    assert "check first" not in organs_found([{"organ": "a", "volume_ml": 1.0, "components": 1}])["row"]
    assert most_disputed(organs[:2], entropy=np.zeros(1)) == {"disagreement": 0.3}
    assert most_disputed([], entropy=np.zeros(1)) == {"disagreement": None} and most_disputed([], None) == {}
