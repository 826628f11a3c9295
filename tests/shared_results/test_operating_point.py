"""What other cuts and smallest components find, what is chosen of it, and that it is applied to the voxel."""
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json
from shared_data.metrics import detection, dice
from shared_results.crossval_report import read_scores
from shared_results.operating_point import (NodePoint, OrganPoint, _read_once, smallest_of_each,
                                            with_operating_point)
from shared_results.point_choice import Point, choose_for_nodes, choose_for_organs, count
from shared_results.sweep import CUTS, SIZES_ML, sweep, sweep_organs, without_islands, without_small, write_sweeps

VOXEL_ML = 0.004
FACTS = {"method": "nodes", "tta": False}


def phantom(seed, shape=(12, 32, 32)):
    """(probability, reference): nodes that get 0.6, smaller things that get up to 0.9."""
    rng = np.random.default_rng(seed)
    reference, probability = np.zeros(shape, bool), rng.random(shape) * 0.04
    for k in range(3):
        z, y, x = rng.integers(2, 8), rng.integers(2, 24), rng.integers(2, 8) + 8 * k
        reference[z:z + 3, y:y + 5, x:x + 4] = True
        probability[z:z + 3, y:y + 5, x:x + 5] = 0.6 - 0.1 * rng.random()
    for _ in range(6):
        z, y, x = (rng.integers(0, length - 1) for length in shape)
        probability[z, y, x:x + 2] = rng.uniform(0.1, 0.9)
    return probability, reference


@pytest.mark.parametrize("cut", [0.05, 0.3, 0.55, 0.95])
@pytest.mark.parametrize("smallest", [0.0, 0.02, 0.1])
def test_a_sweep_counts_what_the_mask_itself_would_score(cut, smallest):
    probability, reference = phantom(0)
    rows, _ = sweep(probability, reference, probability > 0.7, VOXEL_ML)
    row = next(row for row in rows if (row["cut"], row["smallest"]) == (cut, smallest))
    mask = without_small(probability > cut, VOXEL_ML, smallest)
    nodes, false_positives = detection(reference, mask, (1, 2, 2))
    assert row["false_positives"] == false_positives and row["nodes"] == len(nodes)
    assert row["found"] == sum(node["found"] for node in nodes)
    assert 2 * row["overlap"] / (row["reference"] + row["prediction"]) == pytest.approx(dice(reference, mask))
    assert rows[0]["prediction"] == pytest.approx((probability > 0.7).sum() * VOXEL_ML) and rows[0]["cut"] is None
    assert len(rows) == 1 + len(CUTS) * len(SIZES_ML)


@dataclass(frozen=True)
class Scored:
    number: int
    scored: Path
    held_out: dict[str, str]


@pytest.fixture
def folds(tmp_path):
    folds = []
    for number in (1, 2, 3):
        cases = {f"P{number}{letter}": f"P{number}{letter}" for letter in "ab"}
        maps = [phantom(10 * number + i) for i in range(2)]
        write_sweeps(tmp_path / f"fold{number}", list(cases), [sweep(*each, each[0] > 0.7, VOXEL_ML) for each in maps])
        folds.append(Scored(number, tmp_path / f"fold{number}", cases))
    return folds


def test_the_best_of_the_folds_is_chosen_and_told_apart_from_what_it_is_worth(folds, tmp_path):
    rows, candidates = (read_scores(folds, f"sweep{part}.csv") for part in ("", "_candidates"))
    tables, figures = choose_for_nodes(rows, candidates, Point(), FACTS, tmp_path / "out")
    point = read_json(tmp_path / "out" / "operating_point.json")
    settings = point["settings"]
    assert 0.05 <= settings["threshold"] < 0.6 and 0 < settings["smallest_ml"] <= 0.1
    default, chosen, apart = point["compared"]
    assert default["dice"] < 0.1 < 0.8 < apart["dice"] <= chosen["dice"] and apart["gain_low"] > 0
    assert chosen["sensitivity"] == 1 and chosen["false positives per scan"] == 0 and default["patients"] == 6
    by_hand = [dice(phantom(10 * n + i)[1], without_small(phantom(10 * n + i)[0] > settings["threshold"], VOXEL_ML,
                                                          settings["smallest_ml"])) for n in (1, 2, 3) for i in (0, 1)]
    assert chosen["dice"] == pytest.approx(np.mean(by_hand))
    assert all(path.exists() for path in figures.values()) and len(tables) == 2
    assert len(read_table(tmp_path / "out" / "sweep.csv", [])) == 1 + len(CUTS) * len(SIZES_ML)
    curve = read_table(tmp_path / "out" / "froc.csv", ["sensitivity"])
    assert float(curve[0]["sensitivity"]) == 1


def test_each_fold_is_served_by_the_others():
    rows = [{"patient": f"P{i}", "case": f"P{i}", "fold": i, "cut": cut, "smallest": smallest, "reference": 1.0,
             "prediction": 1.0, "overlap": overlap[i]}
            for cut, smallest, overlap in ((np.nan, np.nan, (0.5, 0.5, 0.5)), (0.5, 0.0, (1.0, 0.4, 0.6)),
                                           (0.3, 0.0, (0.0, 0.9, 0.7))) for i in range(3)]
    counts = count(rows)
    assert counts.best(np.full(3, True)) == 1  # 0.67, before 0.53 and 0.5
    assert counts.without_fold().tolist() == [2, 1, 1]  # of 1 and 2 alone: 0.5, 0.5, 0.8; of 0 and 2: 0.5, 0.8, 0.35
    assert counts.row("x", counts.without_fold(), None)["dice"] == pytest.approx((0.0 + 0.4 + 0.6) / 3)


def test_islands_go_and_the_largest_part_of_an_organ_stays(tmp_path):
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[1, 2:6, 2:6], labels[1, 15, 15], labels[2, 10, 2:5] = 1, 1, 2
    reference = np.where(labels == 1, 1, 0).astype(np.uint8)
    reference[1, 15, 15] = 0
    kept = without_islands(labels, 1.0, (10.0, 10.0))
    assert np.array_equal(kept == 1, reference == 1) and np.array_equal(kept == 2, labels == 2)
    assert without_islands(labels, 1.0, (0.0, 0.0)) is labels
    rows = [{"patient": "P1", "case": "P1", "fold": 1, **{
        name: np.nan if value is None else value for name, value in row.items()}}
        for row in sweep_organs(labels, reference, ("large", "undrawn"), 1.0)]
    assert {row["organ"] for row in rows} == {"large"}
    choose_for_organs(rows, ["large", "undrawn"], FACTS, tmp_path)
    point = read_json(tmp_path / "operating_point.json")
    assert point["settings"] == {"smallest_ml": {"large": 2.0}}
    options = OrganPoint(operating_point=tmp_path / "operating_point.json")
    assert smallest_of_each(options, ("undrawn", "large"), "nodes") == (0.0, 2.0)
    hits = _read_once.cache_info().hits
    assert smallest_of_each(options, ("large",), "nodes") == (2.0,)
    assert _read_once.cache_info().hits == hits + 1
    for bad, message in ((replace(options, smallest_ml=(1.0,)), "both set it"),
                         (OrganPoint(smallest_ml=(1.0, 2.0, 3.0)), "3 numbers. Give one, or one for each of a, b")):
        with pytest.raises(InputError, match=message):
            smallest_of_each(bad, ("a", "b"), "nodes")
    with pytest.raises(InputError, match="chosen for large, which the network does not segment"):
        smallest_of_each(options, ("a",), "nodes")


@dataclass(frozen=True, kw_only=True)
class Options(NodePoint):
    threshold: float | None = None
    tta: bool = False


def test_it_is_taken_on_request_and_refused_where_it_does_not_belong(tmp_path, capsys):
    path = tmp_path / "operating_point.json"
    write_json(path, {**FACTS, "settings": {"threshold": 0.4, "smallest_ml": 0.05}})
    options = Options(operating_point=path)
    assert with_operating_point(Options(), "nodes") == Options()
    assert with_operating_point(options, "nodes") == replace(options, threshold=0.4, smallest_ml=0.05)
    assert not capsys.readouterr().out
    with_operating_point(replace(options, tta=True), "nodes")
    assert "chosen without --tta" in capsys.readouterr().out
    with pytest.raises(InputError, match="--threshold and --operating-point: both set it"):
        with_operating_point(replace(options, threshold=0.3), "nodes")
    with pytest.raises(InputError, match="chosen for nodes, this is organs"):
        with_operating_point(options, "organs")
    with pytest.raises(InputError, match="a folder. Name the file"):
        with_operating_point(Options(operating_point=tmp_path), "nodes")
    write_json(path, {"threshold": 0.4})
    with pytest.raises(InputError, match="not an operating point"):
        with_operating_point(options, "nodes")
