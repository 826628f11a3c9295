"""Choose the operating point of a method on its folds' held-out patients, and estimate its worth on patients that it
was not chosen on."""
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared_data.files import write_json, write_table
from shared_data.metrics import bootstrap_interval
from shared_data.named_types import Row
from shared_results.froc import Matched, bootstrap, cpm, draw_froc, froc_rows
from shared_results.operating_point import NAME
from shared_results.sweep import CUTS, large_enough

NOTE = ("Operating point: the threshold and smallest component of sweep.csv with the highest mean Dice over the "
        "held-out patients in whom something is drawn. 'chosen' is optimistic, the best of many on the same patients; "
        "'chosen without the fold' is not: for each patient the choice was made on the other folds. test.py and "
        f"predict.py use it with --operating-point {NAME}, and the defaults otherwise. An ensemble averages "
        "probabilities, which changes them: check on test patients that the choice suits it, too.")


@dataclass(frozen=True)
class Setting:
    """A probability threshold (None: the method's default) and the smallest component that is kept, ml."""

    cut: float | None
    smallest: float


@dataclass(frozen=True)
class Counts:
    """The scores of n patients at every setting; settings[0] is None, the default."""

    settings: list[Setting | None]
    folds: np.ndarray  # (n,)
    dice: np.ndarray  # (n, settings): mean over a patient's cases; NaN if nothing is drawn
    found: np.ndarray  # (n, settings): nodes found
    false: np.ndarray  # (n, settings): false positives
    nodes: np.ndarray  # (n,)
    scans: np.ndarray  # (n,)

    def best(self, patients: np.ndarray) -> int:
        """Index of the setting with the highest mean Dice over `patients`, a mask (n,); of equal ones the first."""
        dice = self.dice[patients]
        dice = dice[np.isfinite(dice[:, 0])]
        return int(dice.mean(0).argmax()) if len(dice) else 0

    def without_fold(self) -> np.ndarray:
        """(n,): for each patient the setting that is best on the other folds; -1 if there is no other fold."""
        chosen = np.full(len(self.folds), -1)
        for fold in np.unique(self.folds):
            if (others := self.folds != fold).any():
                chosen[~others] = self.best(others)
        return chosen

    def row(self, name: str, chosen: np.ndarray, of_nodes: bool) -> dict[str, Any]:
        """Mean Dice with its 95 % interval, each patient at the setting chosen for them (n,); of_nodes: also
        sensitivity and false positives per scan."""
        patients = np.arange(len(self.folds))
        values = np.where(chosen >= 0, self.dice[patients, chosen], math.nan)
        low, high = bootstrap_interval(values)
        row = {"setting": name, "dice": float(np.nanmean(values)) if np.isfinite(values).any() else math.nan,
               "low": low, "high": high, "patients": int(np.isfinite(values).sum())}
        if of_nodes:
            row |= {"sensitivity": _ratio(self.found[patients, chosen].sum(), self.nodes.sum()),
                    "false positives per scan": _ratio(self.false[patients, chosen].sum(), self.scans.sum())}
        return row


def count(rows: Iterable[Row]) -> Counts:
    """`Counts` from rows of sweep.csv with fold and patient, in which empty cells are NaN."""
    rows = list(rows)
    patients = list(dict.fromkeys(row["patient"] for row in rows))
    tried = {setting for row in rows if (setting := _setting(row))}
    settings = [None, *sorted(tried, key=lambda setting: (setting.smallest, abs((setting.cut or 0.5) - 0.5)))]
    columns = {setting: i for i, setting in enumerate(settings)}
    indices = {patient: i for i, patient in enumerate(patients)}
    shape = len(patients), len(settings)
    dice, drawn, hits, false = (np.zeros(shape) for _ in range(4))
    nodes, scans, folds = np.zeros(shape[0]), np.zeros(shape[0]), np.zeros(shape[0], int)
    for row in rows:
        index, column = at = indices[row["patient"]], columns[_setting(row)]
        folds[index] = row["fold"]
        if row["reference"] > 0:
            dice[at] += 2 * row["overlap"] / (row["reference"] + row["prediction"])
            drawn[at] += 1
        hits[at] += row.get("found", 0)
        false[at] += row.get("false_positives", 0)
        if column == 0:
            nodes[index] += row.get("nodes", 0)
            scans[index] += 1
    with np.errstate(invalid="ignore"):
        return Counts(settings, folds, dice / drawn, hits, false, nodes, scans)


def _setting(row: Row) -> Setting | None:
    return None if math.isnan(row["smallest"]) else Setting(
        None if math.isnan(row["cut"]) else row["cut"], row["smallest"])


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def compared(counts: Counts, best: int, of_nodes: bool) -> list[Row]:
    """Rows for the default, for the chosen setting, and for the choice made without each patient's own fold, with its
    gain over the default."""
    n = len(counts.folds)
    rows = [counts.row("default", np.zeros(n, int), of_nodes), counts.row("chosen", np.full(n, best), of_nodes)]
    unseen = counts.without_fold()
    if (unseen >= 0).all():
        rows.append(counts.row("chosen without the fold", unseen, of_nodes))
        gain = counts.dice[np.arange(n), unseen] - counts.dice[:, 0]
        low, high = bootstrap_interval(gain)
        rows[-1] |= {"gain": float(np.nanmean(gain)) if np.isfinite(gain).any() else math.nan, "gain_low": low,
                     "gain_high": high}
    return [{**row, **{name: row.get(name, math.nan) for name in ("gain", "gain_low", "gain_high")}} for row in rows]


@dataclass(frozen=True)
class Point:
    """The options that make up the operating point of a project that finds nodes."""

    cut: str = "threshold"  # option of test.py and predict.py for the threshold, beside smallest_ml
    fixed: tuple[tuple[str, str], ...] = ()  # (option, value) pairs that belong to it


def choose_for_nodes(rows: list[Row], candidates: list[Row], options: Point, facts: dict[str, Any],
                     out: Path) -> tuple[dict[str, list[Row]], dict[str, Path]]:
    """Write operating_point.json, sweep.csv, and if there are nodes froc.csv and froc.png.

    rows, candidates: of sweep.csv and sweep_candidates.csv, with fold and patient; facts: further entries of the JSON.
    Returns ({title: table}, {caption: picture}) for the report.
    """
    counts = count(rows)
    best = counts.best(np.full(len(counts.folds), True))
    point = counts.settings[best]
    settings = {options.cut: point.cut, "smallest_ml": point.smallest, **dict(options.fixed)} if point else {}
    table = compared(counts, best, True)
    write_json(out / NAME, {**facts, "settings": settings, "chosen_by": "highest mean Dice", "compared": table})
    swept = [{options.cut: tried.cut if tried else math.nan, "smallest_ml": tried.smallest if tried else math.nan,
              **counts.row("", np.full(len(counts.folds), i), True)} for i, tried in enumerate(counts.settings)]
    write_table(out / "sweep.csv", [{key: value for key, value in row.items() if key != "setting"} for row in (
        swept[0], *sorted(swept[1:], key=lambda row: (row["smallest_ml"], row[options.cut])))])
    words = ", ".join(f"--{name.replace('_', '-')} {value}"
                      for name, value in settings.items()) or "the default"
    if point and point.cut in (CUTS[0], CUTS[-1]):
        words += " (the lowest or highest tried)"
    print(f"operating point {words}: mean Dice {table[-1]['dice']:.3f} {table[-1]['setting']}, default "
          f"{table[0]['dice']:.3f}")
    tables = {f"Operating point: {words}": table}
    if not counts.nodes.any():
        return tables, {}
    point = point or max(filter(None, counts.settings),
                         key=lambda tried: np.nanmean(counts.dice[:, counts.settings.index(tried)]))
    patients, scans = scans_at(rows, candidates, point)
    interval = bootstrap(scans, patients=patients)
    curve = froc_rows(scans, interval)
    write_table(out / "froc.csv", curve)
    low, high = interval["cpm"]
    others = [(None, row) for row, tried in zip(swept, counts.settings) if tried and tried.smallest == point.smallest]
    draw_froc(scans, out / "froc.png", [
        (name, row["false positives per scan"], row["sensitivity"])
        for name, row in (*others, ("default", table[0]), ("chosen", table[1]))])
    title = f"FROC, mean of the sensitivities (CPM) {cpm(scans):.3f} ({low:.3f} to {high:.3f})"
    caption = (f"free-response curve (FROC) of the held-out patients: components at threshold {point.cut:g} by their "
               "mean probability; crosses: all components at each threshold tried")
    return {**tables, title: curve}, {caption: out / "froc.png"}


def scans_at(rows: list[Row], candidates: list[Row], point: Setting) -> tuple[list[str], list[Matched]]:
    """(patient of each scan, its candidates matched as by `froc.match`) at one threshold and smallest component."""
    best = {row["case"]: np.full(int(row["nodes"]), -np.inf) for row in rows}
    patients = {row["case"]: row["patient"] for row in rows}
    false: dict[str, list[float]] = {case: [] for case in best}
    for row in candidates:
        if row["cut"] == point.cut and large_enough(np.array(row["size"]), point.smallest):
            touched = [int(node) - 1 for node in str(row["nodes"]).split("#")[1:]]
            if touched:
                best[row["case"]][touched] = np.maximum(best[row["case"]][touched], row["probability"])
            else:
                false[row["case"]].append(row["probability"])
    return [patients[case] for case in best], [(best[case], np.array(false[case])) for case in best]


def choose_for_organs(rows: list[Row], organs: Sequence[str], facts: dict[str, Any], out: Path) -> dict[str, list[Row]]:
    """Write operating_point.json, the smallest island of each organ; {title: table} for the report."""
    table, settings = [], {}
    for organ in organs:
        counts = count(row for row in rows if row["organ"] == organ)
        if len(counts.settings) > 1:
            best = counts.best(np.full(len(counts.folds), True))
            chosen = counts.settings[best]
            settings[organ] = chosen.smallest if chosen else 0.0
            table += [{"organ": organ, "smallest_ml": 0.0 if row["setting"] == "default" else settings[organ], **row}
                      for row in compared(counts, best, False)]
    write_json(out / NAME, {**facts, "settings": {"smallest_ml": settings}, "chosen_by": "highest mean Dice",
                            "compared": table})
    return {"Operating point: smallest island of each organ, ml": table}
