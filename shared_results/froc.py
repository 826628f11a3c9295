"""Detection scores as the LUNA16 challenge counts them: the free-response curve (FROC) and its mean (CPM).

A candidate closer to a nodule's centre than its radius is a hit; of several hits on a nodule the most probable counts.
The other hits are ignored, as are candidates within findings that the challenge excludes. The rest are false positives.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shared_data.files import whole_file
from shared_data.named_types import Floats, Row

FALSE_POSITIVES_PER_SCAN = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)
EXCLUDED_DIAMETER_MM = 10.0  # of excluded findings without a diameter (the challenge's script)

Matched = tuple[Floats, Floats]  # what `match` returns for a scan


def match(candidates: Sequence[Sequence[float]], nodules: Sequence[Sequence[float]],
          excluded: Sequence[Sequence[float]] = ()) -> Matched:
    """(probability of each nodule's best hit or -inf, probabilities of the false positives) of one scan.

    candidates: rows (x, y, z, probability); nodules, excluded: rows (x, y, z, diameter), mm.
    """
    places, known, ignored = (np.reshape(np.asarray(rows, float), (-1, 4)) for rows in (candidates, nodules, excluded))
    ignored = ignored.copy()
    ignored[ignored[:, 3] < 0, 3] = EXCLUDED_DIAMETER_MM
    hits = _within(places, known)  # (candidates, nodules)
    best = np.where(hits, places[:, 3:], -np.inf).max(0, initial=-np.inf)
    false = ~hits.any(1) & ~_within(places, ignored).any(1)
    return best, places[false, 3]


def _within(candidates, findings):
    squared_distances = ((candidates[:, None, :3] - findings[None, :, :3]) ** 2).sum(-1)
    return squared_distances < (findings[:, 3] / 2) ** 2


def froc_curve(scans: Sequence[Matched]) -> tuple[Floats, Floats]:
    """(false positives per scan, sensitivity): points of the curve, from no candidate to all of them.

    scans: from `match`. Raises ValueError when no scan has a nodule.
    """
    best = np.concatenate([found for found, _ in scans])
    false = np.concatenate([wrong for _, wrong in scans])
    if not len(best):
        raise ValueError("no nodule in any scan: no sensitivity")
    cuts = np.unique(np.concatenate([best[np.isfinite(best)], false]))[::-1]
    found = np.searchsorted(np.sort(-best), -cuts, side="right")
    wrong = np.searchsorted(np.sort(-false), -cuts, side="right")
    return np.append(0, wrong) / len(scans), np.append(0, found) / len(best)


def sensitivities(scans: Sequence[Matched]) -> Floats:
    """Sensitivity at FALSE_POSITIVES_PER_SCAN, linear between the points of the curve."""
    rates, sensitivity = froc_curve(scans)
    last = np.append(rates[1:] > rates[:-1], True)  # the highest sensitivity of each rate
    return np.interp(FALSE_POSITIVES_PER_SCAN, rates[last], sensitivity[last])


def cpm(scans: Sequence[Matched]) -> float:
    """Competition performance metric: the mean of the seven sensitivities."""
    return float(sensitivities(scans).mean())


def bootstrap(scans: Sequence[Matched], samples: int = 1000, seed: int = 0,
              patients: Sequence[str] | None = None) -> dict[str, Any]:
    """{"cpm": (low, high), "sensitivity": [(low, high) ...]}: 95 % intervals of a bootstrap over patients.

    samples: the number of samples; one without a nodule is drawn again. patients: the patient of each scan; None: all
    different. Raises ValueError when no scan has a nodule.
    """
    froc_curve(scans)  # raises if there is no nodule at all
    by_patient: dict[Any, list[Matched]] = {}
    for scan, patient in zip(scans, patients or range(len(scans))):
        by_patient.setdefault(patient, []).append(scan)
    groups = [*by_patient.values()]
    rng, resampled = np.random.default_rng(seed), list[Floats]()
    while len(resampled) < samples:
        chosen = [scan for i in rng.integers(0, len(groups), len(groups)) for scan in groups[i]]
        if sum(len(best) for best, _ in chosen):
            resampled.append(sensitivities(chosen))
    values = np.array(resampled)  # (samples, rates)
    interval = np.percentile(values, (2.5, 97.5), axis=0).T
    return {"cpm": tuple(np.percentile(values.mean(1), (2.5, 97.5)).tolist()), "sensitivity": interval.tolist()}


def froc_rows(scans: Sequence[Matched], interval: dict[str, Any]) -> list[Row]:
    """[{"false positives per scan", "sensitivity", "low", "high"}] at FALSE_POSITIVES_PER_SCAN; interval: from
    `bootstrap`."""
    points = zip(FALSE_POSITIVES_PER_SCAN, sensitivities(scans), interval["sensitivity"])
    return [{"false positives per scan": rate, "sensitivity": float(value), "low": low, "high": high}
            for rate, value, (low, high) in points]


def draw_froc(scans: Sequence[Matched], path: Path,
              points: Sequence[tuple[str | None, float, float]] = ()) -> None:
    """Write a PNG of the curve and of `points`: (name or None, false positives per scan, sensitivity)."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    rates, sensitivity = froc_curve(scans)
    axes.step(np.maximum(rates, 1 / 16), sensitivity, where="post", label="at every probability threshold")
    axes.plot(FALSE_POSITIVES_PER_SCAN, sensitivities(scans), "o", label="at the rates of the CPM")
    if others := [(max(rate, 1 / 16), value) for name, rate, value in points if not name]:
        axes.plot(*zip(*others), "x", markersize=4, color="0.5", label="at other settings")
    for name, rate, value in points:
        if name:
            axes.plot(max(rate, 1 / 16), value, "*", markersize=11, label=name)
    axes.legend(fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="false positives per scan", ylabel="sensitivity", xlim=(1 / 16, 16), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
