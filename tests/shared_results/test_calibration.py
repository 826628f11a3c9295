"""Calibration of probabilities: by hand, for probabilities that are what they say, and for some that are not."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared_data.files import read_table
from shared_results.calibration import (BINS, OF_CASES, Forecasts, drawn_alone, error, histogram, write_calibration,
                                        write_curves)
from shared_results.crossval_report import Study, calibration


def test_a_hand_worked_histogram():
    probability = np.array([[0.001, 0.009, 0.01, 0.04], [0.52, 0.54, 1.0, 0.97]], np.float32)
    drawn = np.array([[False, True, False, True], [True, False, True, True]])
    counts = histogram(probability, drawn)
    assert counts.shape == (BINS + 1, 3) and counts[0].tolist() == [2, 0, 1]
    assert np.allclose(counts[1], [2, 0.05, 1]) and np.allclose(counts[11], [2, 1.06, 1])
    assert np.allclose(counts[20], [2, 1.97, 2]) and counts[:, 0].sum() == 8
    assert error(counts) == pytest.approx((abs(0.05 - 1) + abs(1.06 - 1) + abs(1.97 - 2)) / 6)
    assert np.isnan(error(histogram(np.zeros(4), np.zeros(4, bool))))


def test_sure_background_does_not_make_the_error_small():
    rng = np.random.default_rng(0)
    probability = rng.random(1000)
    drawn = rng.random(1000) < probability ** 2
    counts = histogram(probability, drawn)
    with_background = histogram(np.append(probability, np.zeros(10**6)), np.append(drawn, np.zeros(10**6, bool)))
    assert error(with_background) == error(counts) > 0.1


def test_what_they_say_and_what_not(tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(5):
        probability = rng.random((3, 10, 20, 20)) ** 3
        honest, bold = probability[1], probability[2]
        labels = np.where(rng.random(honest.shape) < honest, 1, np.where(rng.random(bold.shape) < bold / 2, 2, 0))
        forecasts = Forecasts(labels, 3)
        for start in range(0, 10, 4):  # part by part as the whole
            forecasts.look(probability[:, start:start + 4])
        assert np.allclose(forecasts.histograms[0], histogram(honest, labels == 1))
        cases.append(forecasts.histograms)
    rows = write_calibration(tmp_path, {f"P{i}": case for i, case in enumerate(cases)}, ("honest", "bold"))
    assert [row["structure"] for row in rows] == ["all", "honest", "bold"] and (tmp_path / "calibration.png").exists()
    everything, honest, bold = rows
    assert honest["ece"] < 0.02 < 0.1 < bold["ece"] and bold["probability"] > 2 * bold["frequency"]
    assert bold["low"] <= bold["ece"] <= bold["high"] and honest["cases"] == 5 and 0 < bold["below"] < 0.1
    assert everything["voxels"] == honest["voxels"] + bold["voxels"]
    curve = [row for row in read_table(tmp_path / "calibration.csv", []) if row["structure"] == "honest"]
    assert len(curve) == BINS and all(abs(float(row["probability"]) - float(row["frequency"])) < 0.1 for row in curve)


def test_what_nobody_drew_does_not_count():
    forecasts = Forecasts(np.ones((2, 3, 3), int), 3)
    forecasts.look(np.full((3, 2, 3, 3), 0.5))
    counts = drawn_alone(forecasts.histograms)
    assert counts[0].any() and not counts[1].any()


@dataclass(frozen=True)
class Scored:
    number: int
    scored: Path
    held_out: dict[str, str]


def test_the_folds_are_pooled_over_patients_and_one_without_histograms_is_named(tmp_path):
    rng, structures = np.random.default_rng(0), ("honest", "bold")
    held_out = [{"P1a": "P1", "P1b": "P1", "P2": "P2"}, {"P3": "P3"}, {"P4": "P4"}]
    folds = [Scored(number, tmp_path / f"fold{number}", cases) for number, cases in enumerate(held_out, 1)]
    by_patient = {}
    for fold in folds:
        by_case = {}
        for case, patient in fold.held_out.items():
            probability = rng.random((2, 500))
            by_case[case] = np.stack([histogram(probability[i], rng.random(500) < probability[i] ** (i + 1))
                                      for i in range(2)])
            by_patient[patient] = by_patient.get(patient, 0) + by_case[case]
        write_calibration(fold.scored, by_case, structures)
    study = Study("Toy", "toy", ("dice",), by_organ=True)
    rows, figures, notes = calibration(study, folds, tmp_path / "all")
    assert rows == write_curves(tmp_path / "by hand", [*by_patient.values()], structures)
    assert [(row["structure"], row["cases"], row["voxels"] > 0) for row in rows] == [
        ("all", 4, True), ("honest", 4, True), ("bold", 4, True)]
    assert rows[1]["low"] <= rows[1]["ece"] <= rows[1]["high"] < rows[2]["low"] and len(notes) == 1
    assert [path.exists() for path in figures.values()] == [True] and "4 held-out patients" in next(iter(figures))
    (folds[1].scored / OF_CASES).unlink()
    rows, _, notes = calibration(study, folds, tmp_path / "all")
    assert rows[0]["cases"] == 3 and notes[1].startswith("Calibration: without fold 2, whose calibration_cases.csv")
    for fold in folds:
        (fold.scored / OF_CASES).unlink(missing_ok=True)
    rows, figures, notes = calibration(study, folds, tmp_path / "all")
    assert rows == [] and figures == {} and "without fold 1, 2, 3" in notes[0]
