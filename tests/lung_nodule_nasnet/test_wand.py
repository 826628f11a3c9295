"""The authors' wand pixel by pixel; ours closes on the edge."""
import json

import numpy as np
import pytest

from lung_nodule_nasnet.cell_magic_wand import cell_magic_wand, closed_path, edge_wand


@pytest.mark.parametrize("number", range(4))
def test_masks_are_the_authors(golden, number):
    values = np.load(golden / "prep_nasnet_magic_wand.npz")
    facts = json.loads((golden / "prep_nasnet_magic_wand.json").read_text())["nodules"][number]
    flipped = -values["images"][number].astype(int)
    where = facts["center"], facts["min_radius"], facts["max_radius"]
    assert np.array_equal(cell_magic_wand(flipped, *where, single=True), values["single"][number] > 0)
    assert np.array_equal(cell_magic_wand(flipped, *where), values["masks"][number] > 0)


@pytest.mark.parametrize("number", range(4))
def test_the_edge_is_closer_to_the_nodule(golden, number):
    values = np.load(golden / "prep_nasnet_magic_wand.npz")
    facts = json.loads((golden / "prep_nasnet_magic_wand.json").read_text())["nodules"][number]
    y, x = np.ogrid[:64, :64]
    truth = (y - facts["center"][0]) ** 2 + (x - facts["center"][1]) ** 2 <= facts["true_radius"] ** 2
    edge = edge_wand(values["images"][number], facts["center"], 2, facts["max_radius"])
    assert 2 * (edge & truth).sum() / (edge.sum() + truth.sum()) >= max(0.84, facts["dice_with_truth"] - 0.02)


def test_a_closed_path_is_the_best_of_all():
    gain = np.random.default_rng(0).normal(size=(6, 4))
    paths = [()]
    for _ in range(6):
        paths = [(*path, r) for path in paths for r in range(4) if not path or abs(path[-1] - r) <= 1]
    best = max(sum(gain[k, r] for k, r in enumerate(path)) for path in paths if abs(path[0] - path[-1]) <= 1)
    path, mean = closed_path(gain)
    assert mean * 6 == pytest.approx(best) == pytest.approx(sum(gain[k, r] for k, r in enumerate(path)))


def test_at_the_border_and_without_an_edge():
    image = np.full((30, 30), -860)
    assert cell_magic_wand(-image, (0, 29), 2, 8).shape == (30, 30)
    assert edge_wand(image, (15, 15), 2, 8) is None
    with pytest.raises(ValueError, match="radii"):
        cell_magic_wand(image, (15, 15), 8, 8)
