"""Whether predicted probabilities can be trusted: reliability curve and expected calibration error (ECE).

A voxel counts for a structure if the network predicts LEAST or more there. Voxels are chosen by the prediction alone:
choosing those near the reference would bend the curve, which is the observed frequency among voxels of one predicted
probability. The certain background, nearly all of a CT, is left out, since it would make any error small. The share of
a structure's voxels for which less is predicted is reported separately as "below".
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from shared_data.files import whole_file, write_table
from shared_data.named_types import Row

LEAST, BINS = 0.01, 20
EDGES = np.append(LEAST, np.arange(1, BINS + 1) / BINS)
VOXELS, FORECAST, TRUE = range(3)  # columns of a histogram: voxels, sum of their probabilities, how many are drawn
COLUMNS = ("voxels", "forecast", "drawn")  # their names in OF_CASES
OF_CASES = "calibration_cases.csv"  # a row for each bin that is not empty; crossval.py adds them up
NOTE = (f"Calibration: over the voxels for which the network predicts a structure's probability as {LEAST:g} or more; "
        "this leaves out the certain background. ece: mean difference between predicted probability and observed "
        f"frequency over {BINS} bins, weighted by voxels, all cases together; low, high: 95 % interval, bootstrap over "
        "cases; ece_of_cases: mean of the cases' own errors, so that opposite ones do not cancel. below: share of the "
        f"drawn voxels with a probability under {LEAST:g}.")
UNDRAWN_NOTE = " An organ that is missing from a case's reference does not count in that case."


def histogram(probability: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(BINS + 1, 3): VOXELS, FORECAST, TRUE of each bin of the probabilities, below LEAST in row 0 (with FORECAST 0).

    true: boolean, of the same shape. Histograms of parts and of cases can be added up.
    """
    counted = probability >= LEAST
    forecast, drawn = probability[counted], true[counted]
    bins = np.minimum((forecast * BINS).astype(np.int64), BINS - 1) + 1
    counts = [np.bincount(bins, weights, BINS + 1) for weights in (None, forecast, drawn)]
    result = np.stack(counts, axis=1).astype(float)
    result[0] = counted.size - len(forecast), 0, int(true.sum()) - int(drawn.sum())
    return result


class Forecasts:
    """Histograms of the structures 1, 2, ... of a label map (z, y, x), filled slice by slice."""

    def __init__(self, labels: np.ndarray, n_classes: int) -> None:
        self.labels, self.done = labels, 0
        self.histograms = np.zeros((n_classes - 1, BINS + 1, 3))

    def look(self, probability: np.ndarray) -> None:
        """Add the next n slices; probability (C, n, Y, X), background first."""
        labels = self.labels[self.done:self.done + probability.shape[1]]
        self.done += len(labels)
        for label in range(1, len(probability)):
            self.histograms[label - 1] += histogram(probability[label], labels == label)


def error(histograms: np.ndarray) -> np.ndarray:
    """ECE (...) of histograms (..., BINS + 1, 3); NaN if no voxel reaches LEAST."""
    bins = histograms[..., 1:, :]
    with np.errstate(invalid="ignore"):
        return np.abs(bins[..., FORECAST] - bins[..., TRUE]).sum(-1) / bins[..., VOXELS].sum(-1)


def drawn_alone(histograms: np.ndarray) -> np.ndarray:
    """Histograms (structures, BINS + 1, 3) of a case, set to 0 for structures that nobody drew in it."""
    return histograms * (histograms[..., TRUE].sum(-1) > 0)[:, None, None]


def write_calibration(folder: Path, by_case: Mapping[str, np.ndarray], structures: Sequence[str]) -> list[Row]:
    """Write OF_CASES and what `write_curves` writes; returns its rows.

    by_case: {case: histograms (structures, BINS + 1, 3)}.
    """
    write_table(folder / OF_CASES, [
        {"case": case, "structure": structure, "bin": index, **dict(zip(COLUMNS, bins[index].tolist()))}
        for case, histograms in by_case.items() for structure, bins in zip(structures, histograms)
        for index in np.flatnonzero(bins.any(1)).tolist()], ("case", "structure"))
    return write_curves(folder, [*by_case.values()], structures)


def histograms_of(rows: Sequence[Row]) -> tuple[dict[str, np.ndarray], list[str]]:
    """({patient: histograms (structures, BINS + 1, 3), summed over cases}, structures), from rows of OF_CASES."""
    structures = list(dict.fromkeys(row["structure"] for row in rows))
    by_patient: dict[str, np.ndarray] = {}
    for row in rows:
        of_patient = by_patient.setdefault(row["patient"], np.zeros((len(structures), BINS + 1, 3)))
        of_patient[structures.index(row["structure"]), int(row["bin"])] += [row[name] for name in COLUMNS]
    return by_patient, structures


def write_curves(folder: Path, by_case: Sequence[np.ndarray], structures: Sequence[str]) -> list[Row]:
    """Write calibration.csv (the curves) and calibration.png; a row of numbers for each structure with voxels.

    by_case: histograms (structures, BINS + 1, 3). Rows: {"structure", "ece", "low", "high", "ece_of_cases",
    "probability", "frequency", "below", "voxels", "cases"}; of several structures "all" together come first.
    """
    names, cases = tuple(structures), np.stack(by_case)
    if len(names) > 1:
        names, cases = ("all", *names), np.concatenate([cases.sum(1, keepdims=True), cases], axis=1)
    rng = np.random.default_rng(0)
    samples = np.stack([cases[rng.integers(0, len(cases), len(cases))].sum(0) for _ in range(1000)])
    rows, curves = [], []
    for i, name in enumerate(names):
        total = cases[:, i].sum(0)
        bins = total[1:]
        if not bins[:, VOXELS].any():
            continue
        of_cases, resampled = error(cases[:, i]), error(samples[:, i])
        rows.append({"structure": name, "ece": float(error(total)), **_interval(resampled),
                     "ece_of_cases": float(np.nanmean(of_cases)), "probability": _mean(bins, FORECAST),
                     "frequency": _mean(bins, TRUE),
                     "below": float(total[0, TRUE] / total[:, TRUE].sum()) if total[:, TRUE].any() else float("nan"),
                     "voxels": int(bins[:, VOXELS].sum()), "cases": int(np.isfinite(of_cases).sum())})
        curves += [{"structure": name, "from": low, "to": high, "voxels": int(row[VOXELS]),
                    "probability": _mean(row[None], FORECAST), "frequency": _mean(row[None], TRUE)}
                   for low, high, row in zip(EDGES, EDGES[1:], bins) if row[VOXELS]]
    if rows:
        write_table(folder / "calibration.csv", curves)
        _draw(folder / "calibration.png", rows, curves, samples[:, 0, 1:])
    return rows


def _mean(bins: np.ndarray, column: int) -> float:
    return float(bins[:, column].sum() / bins[:, VOXELS].sum())


def _interval(values: np.ndarray) -> dict[str, float]:
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (np.nan, np.nan)
    return {"low": float(low), "high": float(high)}


def _draw(path: Path, rows: list[Row], curves: list[Row], samples: np.ndarray) -> None:
    """Plot the curves, and below them the number of voxels per bin.

    samples: histograms (samples, BINS, 3) of a bootstrap, for the interval of the first curve.
    """
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfect calibration")
    for i, row in enumerate(rows):
        points = [curve for curve in curves if curve["structure"] == row["structure"]]
        style = {"color": "black", "marker": ".", "zorder": 3} if i == 0 else {"linewidth": 0.9, "alpha": 0.8}
        upper.plot([curve["probability"] for curve in points], [curve["frequency"] for curve in points],
                   label=f"{row['structure']}, ECE {row['ece']:.3f}", **style)
        if i == 0:
            lower.bar([curve["from"] for curve in points], [curve["voxels"] for curve in points],
                      [curve["to"] - curve["from"] for curve in points], align="edge", color="0.5")
    with np.errstate(invalid="ignore"):
        frequency = samples[..., TRUE] / samples[..., VOXELS]
    filled = np.isfinite(frequency).all(0)  # bins
    if filled.any():
        low, high = np.percentile(frequency[:, filled], [2.5, 97.5], axis=0)
        upper.fill_between(((EDGES[:-1] + EDGES[1:]) / 2)[filled], low, high, color="0.6", alpha=0.4, linewidth=0)
    upper.set(ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="predicted probability", ylabel="voxels", yscale="log")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    upper.legend(fontsize=8, loc="upper left")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
