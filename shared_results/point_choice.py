"""The operating point of a method, chosen on its folds' held-out patients, and what it is worth on those it was not
chosen on."""
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

NOTE = ("Operating point: of the cuts and smallest components in sweep.csv the ones of the highest mean Dice over the "
        "held-out patients with something drawn. As the best of many on the same patients, 'chosen' flatters; 'chosen "
        "without the fold' does not: each patient's were chosen on the other folds alone. test.py and predict.py take "
        f"it with --operating-point {NAME}; unasked they stay at the defaults. An ensemble's mean probability is not a "
        "single network's: check there, on test patients, that it holds.")


@dataclass(frozen=True)
class Setting:
    """A probability cut and the smallest component that counts; None: as the method has it by default."""

    cut: float | None
    smallest: float


@dataclass(frozen=True)
class Counts:
    """What every setting finds of each of n patients; settings[0] is None: the default."""

    settings: list[Setting | None]
    folds: np.ndarray  # (n,)
    dice: np.ndarray  # (n, settings): of a patient with several cases their mean; NaN where nothing is drawn
    found: np.ndarray  # (n, settings) nodes
    false: np.ndarray  # (n, settings) false positives
    nodes: np.ndarray  # (n,)
    scans: np.ndarray  # (n,)

    def best(self, patients: np.ndarray) -> int:
        """The setting of the highest mean Dice over some of them; of equal ones the first, the default before all."""
        dice = self.dice[patients]
        dice = dice[np.isfinite(dice[:, 0])]
        return int(dice.mean(0).argmax()) if len(dice) else 0

    def without_fold(self) -> np.ndarray:
        """(n,) the setting that is best on the other folds; -1 where there is no other."""
        chosen = np.full(len(self.folds), -1)
        for fold in np.unique(self.folds):
            if (others := self.folds != fold).any():
                chosen[~others] = self.best(others)
        return chosen

    def row(self, name: str, chosen: np.ndarray, of_nodes: bool) -> dict[str, Any]:
        """Dice with its interval when each patient has his setting (n,); of_nodes: with sensitivity and false
        positives."""
        each = np.arange(len(self.folds))
        values = np.where(chosen >= 0, self.dice[each, chosen], math.nan)
        low, high = bootstrap_interval(values)
        row = {"setting": name, "dice": float(np.nanmean(values)) if np.isfinite(values).any() else math.nan,
               "low": low, "high": high, "patients": int(np.isfinite(values).sum())}
        if of_nodes:
            row |= {"sensitivity": _ratio(self.found[each, chosen].sum(), self.nodes.sum()),
                    "false positives per scan": _ratio(self.false[each, chosen].sum(), self.scans.sum())}
        return row


def count(rows: Iterable[Row]) -> Counts:
    """`Counts` of rows of sweep.csv, with fold and patient; what is no number there is NaN."""
    rows = list(rows)
    patients = list(dict.fromkeys(row["patient"] for row in rows))
    tried = {setting for row in rows if (setting := _setting(row))}
    settings = [None, *sorted(tried, key=lambda setting: (setting.smallest, abs((setting.cut or 0.5) - 0.5)))]
    columns = {setting: i for i, setting in enumerate(settings)}
    lines = {patient: i for i, patient in enumerate(patients)}
    shape = len(patients), len(settings)
    dice, drawn, hits, false = (np.zeros(shape) for _ in range(4))
    nodes, scans, folds = np.zeros(shape[0]), np.zeros(shape[0]), np.zeros(shape[0], int)
    for row in rows:
        at = lines[row["patient"]], columns[_setting(row)]
        folds[at[0]] = row["fold"]
        if row["reference"] > 0:
            dice[at] += 2 * row["overlap"] / (row["reference"] + row["prediction"])
            drawn[at] += 1
        hits[at] += row.get("found", 0)
        false[at] += row.get("false_positives", 0)
        if at[1] == 0:
            nodes[at[0]] += row.get("nodes", 0)
            scans[at[0]] += 1
    with np.errstate(invalid="ignore"):
        return Counts(settings, folds, dice / drawn, hits, false, nodes, scans)


def _setting(row: Row) -> Setting | None:
    return None if math.isnan(row["smallest"]) else Setting(
        None if math.isnan(row["cut"]) else row["cut"], row["smallest"])


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan


def compared(counts: Counts, best: int, of_nodes: bool) -> list[Row]:
    """The default, what was chosen, and what that is worth on patients it was not chosen on."""
    n = len(counts.folds)
    rows = [counts.row("default", np.zeros(n, int), of_nodes), counts.row("chosen", np.full(n, best), of_nodes)]
    apart = counts.without_fold()
    if (apart >= 0).all():
        rows.append(counts.row("chosen without the fold", apart, of_nodes))
        gain = counts.dice[np.arange(n), apart] - counts.dice[:, 0]
        low, high = bootstrap_interval(gain)
        rows[-1] |= {"gain": float(np.nanmean(gain)) if np.isfinite(gain).any() else math.nan, "gain_low": low,
                     "gain_high": high}
    return [{**row, **{name: row.get(name, math.nan) for name in ("gain", "gain_low", "gain_high")}} for row in rows]


@dataclass(frozen=True)
class Point:
    """How a project that finds nodes calls its operating point."""

    cut: str = "threshold"  # option of test.py and predict.py, beside smallest_ml
    fixed: tuple[tuple[str, str], ...] = ()  # (option, value) pairs that go with them


def choose_for_nodes(rows: list[Row], candidates: list[Row], how: Point, facts: dict[str, Any],
                     out: Path) -> tuple[dict[str, list[Row]], dict[str, Path]]:
    """Write operating_point.json, sweep.csv, froc.csv and froc.png; ({title: table}, {caption: picture}) of the report.

    rows, candidates: of sweep.csv and sweep_candidates.csv, with fold and patient; facts: more for the JSON.
    """
    counts = count(rows)
    best = counts.best(np.full(len(counts.folds), True))
    point = counts.settings[best]
    settings = {how.cut: point.cut, "smallest_ml": point.smallest, **dict(how.fixed)} if point else {}
    table = compared(counts, best, True)
    write_json(out / NAME, {**facts, "settings": settings, "chosen_by": "highest mean Dice", "compared": table})
    everyone = np.arange(len(counts.folds))
    swept = [{how.cut: tried.cut if tried else math.nan, "smallest_ml": tried.smallest if tried else math.nan,
              **counts.row("", np.full(len(everyone), i), True)} for i, tried in enumerate(counts.settings)]
    write_table(out / "sweep.csv", [{key: value for key, value in row.items() if key != "setting"} for row in (
        swept[0], *sorted(swept[1:], key=lambda row: (row["smallest_ml"], row[how.cut])))])
    words = ", ".join(f"--{name.replace('_', '-')} {value}"
                      for name, value in settings.items()) or "the default"
    if point and point.cut in (CUTS[0], CUTS[-1]):
        words += " (the end of what was tried)"
    print(f"operating point {words}: mean Dice {table[-1]['dice']:.3f} {table[-1]['setting']}, default "
          f"{table[0]['dice']:.3f}")
    tables = {f"Operating point: {words}": table}
    if not counts.nodes.any():
        return tables, {}
    point = point or max(filter(None, counts.settings),
                         key=lambda tried: np.nanmean(counts.dice[:, counts.settings.index(tried)]))
    names_of_scans, scans = scans_at(rows, candidates, point)
    interval = bootstrap(scans, patients=names_of_scans)
    curve = froc_rows(scans, interval)
    write_table(out / "froc.csv", curve)
    low, high = interval["cpm"]
    shown = [(None, row) for row, tried in zip(swept, counts.settings) if tried and tried.smallest == point.smallest]
    draw_froc(scans, out / "froc.png", [
        (name, row["false positives per scan"], row["sensitivity"])
        for name, row in (*shown, ("default", table[0]), ("chosen", table[1]))])
    title = f"Free response, mean of the sensitivities {cpm(scans):.3f} ({low:.3f} to {high:.3f})"
    caption = (f"free-response curve of the held-out patients: components at cut {point.cut:g}, by their mean "
               "probability; crosses: all components at other cuts")
    return {**tables, title: curve}, {caption: out / "froc.png"}


def scans_at(rows: list[Row], candidates: list[Row], point: Setting) -> tuple[list[str], list[Matched]]:
    """(patients, what `froc.match` says) of each scan at a cut and smallest component."""
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
    """Write operating_point.json, the smallest island of each organ; {title: table} of the report."""
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
