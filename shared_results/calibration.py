"""Whether probabilities are what they say: reliability curve and expected calibration error (ECE).

A voxel counts for a structure where the network gives it LEAST or more. That goes by the forecast alone, so that the
curve stays what it claims to be, the frequency among voxels of one forecast (to choose voxels near the reference would
bend it), and the background that everybody is sure of, nearly all of a CT, does not make the error small. What was
drawn where the network gives less stands apart as "below".
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from shared_data.files import whole_file, write_table
from shared_data.named_types import Row

LEAST, BINS = 0.01, 20
EDGES = np.append(LEAST, np.arange(1, BINS + 1) / BINS)
VOXELS, FORECAST, TRUE = range(3)  # columns of a histogram: voxels, their summed probability, how many were drawn
COLUMNS = ("voxels", "forecast", "drawn")  # the same in OF_CASES
OF_CASES = "calibration_cases.csv"  # histograms, bin by bin without empty ones; crossval.py adds them up
NOTE = (f"Calibration: of the voxels that the network sees, those to which it gives a structure {LEAST:g} or more; "
        "chosen by the forecast alone, the sure background left out. ece: mean distance of probability and frequency "
        f"over {BINS} bins, the voxels of all cases together; low, high: 95 % interval, bootstrap over cases; "
        "ece_of_cases: the mean of each case's own, where errors of opposite sign do not cancel. below: share of what "
        f"was drawn that got less than {LEAST:g}.")
UNDRAWN_NOTE = " An organ that a case's reference lacks does not count there."


def histogram(probability: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(BINS + 1, 3): VOXELS, FORECAST, TRUE of each bin of the probabilities, what lies below LEAST first; `true`:
    boolean of the same shape. Histograms add up over parts and cases."""
    seen = probability >= LEAST
    forecast, drawn = probability[seen], true[seen]
    bins = np.minimum((forecast * BINS).astype(np.int64), BINS - 1) + 1
    counts = [np.bincount(bins, weights, BINS + 1) for weights in (None, forecast, drawn)]
    result = np.stack(counts, axis=1).astype(float)
    result[0] = seen.size - len(forecast), 0, int(true.sum()) - int(drawn.sum())
    return result


class Forecasts:
    """Histograms of the structures 1, 2, ... of a label map (z, y, x), filled as probabilities come slice by slice."""

    def __init__(self, labels: np.ndarray, n_classes: int) -> None:
        self.labels, self.done = labels, 0
        self.histograms = np.zeros((n_classes - 1, BINS + 1, 3))

    def look(self, probability: np.ndarray) -> None:
        """probability: (C, n, Y, X) of the next n slices, background first."""
        labels = self.labels[self.done:self.done + probability.shape[1]]
        self.done += len(labels)
        for label in range(1, len(probability)):
            self.histograms[label - 1] += histogram(probability[label], labels == label)


def error(histograms: np.ndarray) -> np.ndarray:
    """ECE (...) of histograms (..., BINS + 1, 3); NaN without a voxel from LEAST on."""
    bins = histograms[..., 1:, :]
    with np.errstate(invalid="ignore"):
        return np.abs(bins[..., FORECAST] - bins[..., TRUE]).sum(-1) / bins[..., VOXELS].sum(-1)


def drawn_alone(histograms: np.ndarray) -> np.ndarray:
    """Histograms (structures, BINS + 1, 3) of a case, those of structures that nobody drew there empty."""
    return histograms * (histograms[..., TRUE].sum(-1) > 0)[:, None, None]


def write_calibration(folder: Path, by_case: Mapping[str, np.ndarray], structures: Sequence[str]) -> list[Row]:
    """What `write_curves` writes and gives, and OF_CASES.

    by_case: {case: a histogram of each of the structures, (structures, BINS + 1, 3)}.
    """
    write_table(folder / OF_CASES, [
        {"case": case, "structure": structure, "bin": place, **dict(zip(COLUMNS, bins[place].tolist()))}
        for case, histograms in by_case.items() for structure, bins in zip(structures, histograms)
        for place in np.flatnonzero(bins.any(1)).tolist()], ("case", "structure"))
    return write_curves(folder, [*by_case.values()], structures)


def histograms_of(rows: Sequence[Row]) -> tuple[dict[str, np.ndarray], list[str]]:
    """({patient: his histograms (structures, BINS + 1, 3), cases added up}, structures) of rows of OF_CASES."""
    structures = list(dict.fromkeys(row["structure"] for row in rows))
    by_patient: dict[str, np.ndarray] = {}
    for row in rows:
        of_patient = by_patient.setdefault(row["patient"], np.zeros((len(structures), BINS + 1, 3)))
        of_patient[structures.index(row["structure"]), int(row["bin"])] += [row[name] for name in COLUMNS]
    return by_patient, structures


def write_curves(folder: Path, by_case: Sequence[np.ndarray], structures: Sequence[str]) -> list[Row]:
    """calibration.csv (the curves) and .png; [{"structure", "ece", "low", "high", "ece_of_cases", "probability",
    "frequency", "below", "voxels", "cases"}], all structures together first where they are several."""
    names, cases = tuple(structures), np.stack(by_case)
    if len(names) > 1:
        names, cases = ("all", *names), np.concatenate([cases.sum(1, keepdims=True), cases], axis=1)
    rng = np.random.default_rng(0)
    sets = np.stack([cases[rng.integers(0, len(cases), len(cases))].sum(0) for _ in range(1000)])
    rows, curves = [], []
    for i, name in enumerate(names):
        total = cases[:, i].sum(0)
        bins = total[1:]
        if not bins[:, VOXELS].any():
            continue
        own, drawn = error(cases[:, i]), error(sets[:, i])
        rows.append({"structure": name, "ece": float(error(total)), **_interval(drawn),
                     "ece_of_cases": float(np.nanmean(own)), "probability": _mean(bins, FORECAST),
                     "frequency": _mean(bins, TRUE),
                     "below": float(total[0, TRUE] / total[:, TRUE].sum()) if total[:, TRUE].any() else float("nan"),
                     "voxels": int(bins[:, VOXELS].sum()), "cases": int(np.isfinite(own).sum())})
        curves += [{"structure": name, "from": low, "to": high, "voxels": int(row[VOXELS]),
                    "probability": _mean(row[None], FORECAST), "frequency": _mean(row[None], TRUE)}
                   for low, high, row in zip(EDGES, EDGES[1:], bins) if row[VOXELS]]
    if rows:
        write_table(folder / "calibration.csv", curves)
        _draw(folder / "calibration.png", rows, curves, sets[:, 0, 1:])
    return rows


def _mean(bins: np.ndarray, column: int) -> float:
    return float(bins[:, column].sum() / bins[:, VOXELS].sum())


def _interval(values: np.ndarray) -> dict[str, float]:
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return {"low": float(low), "high": float(high)}


def _draw(path: Path, rows: list[Row], curves: list[Row], sets: np.ndarray) -> None:
    """The curves, the first one with its interval over sets of cases (sets, BINS, 3), above how many voxels there are.
    """
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="as it should be")
    for i, row in enumerate(rows):
        mine = [curve for curve in curves if curve["structure"] == row["structure"]]
        style = {"color": "black", "marker": ".", "zorder": 3} if i == 0 else {"linewidth": 0.9, "alpha": 0.8}
        upper.plot([curve["probability"] for curve in mine], [curve["frequency"] for curve in mine],
                   label=f"{row['structure']}, ECE {row['ece']:.3f}", **style)
        if i == 0:
            lower.bar([curve["from"] for curve in mine], [curve["voxels"] for curve in mine],
                      [curve["to"] - curve["from"] for curve in mine], align="edge", color="0.5")
    with np.errstate(invalid="ignore"):
        frequency = sets[..., TRUE] / sets[..., VOXELS]
    there = np.isfinite(frequency).all(0)
    if there.any():
        low, high = np.percentile(frequency[:, there], [2.5, 97.5], axis=0)
        upper.fill_between(((EDGES[:-1] + EDGES[1:]) / 2)[there], low, high, color="0.6", alpha=0.4, linewidth=0)
    upper.set(ylabel="how often it is drawn", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="probability", ylabel="voxels", yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    upper.legend(fontsize=8, loc="upper left")
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=120)
