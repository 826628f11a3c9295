"""The report on all folds: every patient is scored once, by the network that was not trained on them."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shared_data.errors import InputError
from shared_data.files import read_table, write_json, write_table
from shared_data.metrics import bootstrap_interval, mean, spread
from shared_data.named_types import Row
from shared_results.calibration import NOTE as CALIBRATION_NOTE
from shared_results.calibration import OF_CASES, UNDRAWN_NOTE, histograms_of, write_curves
from shared_results.operating_point import AVERAGED
from shared_results.point_choice import NOTE, Point, choose_for_nodes, choose_for_organs
from shared_results.report import write_report
from shared_results.viewer import viewer_pages

if TYPE_CHECKING:
    from shared_results.crossval import Fold

WORST, PICTURES = 10, 4  # cases

# (name, parts, wholes): the sum of some columns of cases.csv over the sum of others.
Pooled = tuple[str, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Study:
    """What a report on the folds of a project shows."""

    name: str  # the method's
    package: str  # the package of train.py and test.py
    scores: tuple[str, ...]  # columns of test.py's cases.csv; the first ranks the cases
    by_organ: bool = False  # test.py writes organs.csv, one row per case and organ
    point: Point | None = None  # the options of its operating point, if it finds nodes
    point_note: str = ""  # added to the report's note on the operating point
    pooled: tuple[Pooled, ...] = ()


def write_study(study: Study, folds: Sequence["Fold"], out: Path) -> None:
    """Write cases.csv, folds.csv, calibration.csv and .png, summary.json and report.html; for a project with organs
    also organs.csv and organs_of_cases.csv; after --sweep also the operating point."""
    cases = read_scores(folds, "cases.csv")
    scored = {row["case"] for row in cases}
    absent = sorted(case for fold in folds for case in fold.held_out if case not in scored)
    totals = summarise(cases, study.scores)
    pooled = [pooled_score(cases, *names) for names in study.pooled]
    by_fold = [fold_row(f"fold {fold.number}", [row for row in cases if row["fold"] == fold.number], study)
               for fold in folds] + [fold_row("all", cases, study)]
    worst = sorted(cases, key=lambda row: (math.isnan(row[study.scores[0]]), row[study.scores[0]]))[:WORST]
    organs = read_scores(folds, "organs.csv") if study.by_organ else []
    by_organ = organ_rows(organs)
    write_table(out / "cases.csv", cases)
    write_table(out / "folds.csv", by_fold)
    if organs:
        write_table(out / "organs.csv", by_organ)
        write_table(out / "organs_of_cases.csv", organs)
    n_patients = len({row["patient"] for row in cases})
    points, curves = operating_point(study, folds, [row["organ"] for row in by_organ], out)
    calibrated, reliability, calibration_notes = calibration(study, folds, out)
    write_json(out / "summary.json", {
        "method": study.name, "folds": [fold.number for fold in folds], "patients": n_patients, "cases": len(cases),
        "left_out": absent, "scores": totals + pooled, "by_fold": by_fold, "organs": by_organ,
        "calibration": calibrated, "checkpoints": {fold.number: list(fold.checkpoints) for fold in folds}})
    write_report(out / "report.html", f"{study.name}, cross-validation over {len(folds)} folds", [
        f"{n_patients} patients, each scored once, by the network of the fold that held them out.",
        "mean, std, median: over the n patients with a finite score (the cases of a patient are averaged first). low, "
        "high: 95 % interval of the mean, bootstrap over patients. The folds' networks share most of their training "
        "patients, so the interval reflects the choice of the patients scored, not the variation between trainings.",
        f"Left out (the folds' own reports say why): {', '.join(absent) or 'none'}.",
        *([f"{NOTE} {study.point_note}"] if points else []), *calibration_notes],
        {"All patients": totals + pooled, "Folds": by_fold, "Organs": by_organ, **points, "Calibration": calibrated,
         f"Worst {len(worst)} cases": worst, "Cases": cases},
        {**curves, **reliability, **figures(folds, worst, study)},
        viewers(folds))
    for row in totals + pooled:
        if row["n"]:
            print(f"{row['score']} {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f}), {row['n']} patients")
    print(f"report: {out / 'report.html'}")


def operating_point(study: Study, folds: Sequence["Fold"], organs: Sequence[str],
                    out: Path) -> tuple[dict[str, list[Row]], dict[str, Path]]:
    """Choose the operating point if the folds were scored with --sweep, and write its files.

    Returns ({title: table}, {caption: picture}) for the report, both empty without sweeps.
    """
    if not all((fold.scored / "sweep.csv").exists() for fold in folds):
        return {}, {}
    rows = read_scores(folds, "sweep.csv")
    if not rows:
        return {}, {}
    options = folds[0].test
    averaged = {name: f"--{name}" in options for name in AVERAGED if {f"--{name}", f"--no-{name}"} & {*options}}
    facts = {"method": study.name, **averaged, "folds": [fold.number for fold in folds],
             "patients": len({row["patient"] for row in rows})}
    if study.by_organ:
        return choose_for_organs(rows, organs, facts, out), {}
    assert study.point
    return choose_for_nodes(rows, read_scores(folds, "sweep_candidates.csv"), study.point, facts, out)


def calibration(study: Study, folds: Sequence["Fold"], out: Path) -> tuple[list[Row], dict[str, Path], list[str]]:
    """Write calibration.csv and .png of all held-out patients; (table, {caption: picture}, notes) for the report."""
    usable = [fold for fold in folds if (fold.scored / OF_CASES).exists()]
    lacking = [str(fold.number) for fold in folds if fold not in usable]
    notes = [f"Calibration: without fold {', '.join(lacking)}, whose {OF_CASES} is missing: an older version scored "
             "it. Delete its folder of scores and start again."] if lacking else []
    by_patient, structures = histograms_of(read_scores(usable, OF_CASES))
    rows = write_curves(out, [*by_patient.values()], structures) if by_patient else []
    if not rows:
        return [], {}, notes
    undrawn = UNDRAWN_NOTE if study.by_organ else ""
    caption = (f"predicted probability and observed frequency, {len(by_patient)} held-out patients; grey: 95 % "
               "interval over patients")
    return rows, {caption: out / "calibration.png"}, [
        f"{CALIBRATION_NOTE}{undrawn} Here the cases of a patient together count as one.", *notes]


def read_scores(folds: Sequence["Fold"], name: str) -> list[Row]:
    """Rows of the table `name` of every fold, with the fold's number and the patient; numbers as floats.

    Raises InputError for a case that is not the fold's, or is in two folds.
    """
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for fold in folds:
        for row in read_table(fold.scored / name, ["case"]):
            case = row.pop("case")
            if case not in fold.held_out or seen.setdefault(case, fold.number) != fold.number:
                raise InputError(f"{fold.scored / name}: {case} was not held out by fold {fold.number} alone. Delete "
                                 "the folder, and score again.")
            rows.append({"fold": fold.number, "patient": fold.held_out[case], "case": case,
                         **{column: number(text) for column, text in row.items()}})
    return rows


def number(text: str) -> float | str:
    """A cell of a CSV file as a float if it is one, NaN if it is empty, otherwise the text."""
    try:
        return float(text or "nan")
    except ValueError:
        return text


def per_patient(rows: Sequence[Row], score: str) -> list[float]:
    """The score of each patient: the mean over their cases where it is finite, or the first case's if it nowhere is."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["patient"], []).append(row[score])
    return [of_cases[0] if math.isnan(mean(of_cases)) else mean(of_cases) for of_cases in values.values()]


def summarise(rows: Sequence[Row], scores: Sequence[str]) -> list[Row]:
    """[{"score", "mean", "low", "high", "std", "median", "n"}] over the patients."""
    summary = []
    for score in scores:
        values = per_patient(rows, score)
        low, high = bootstrap_interval(values)
        statistics = spread(values)
        summary.append({"score": score, "mean": statistics["mean"], "low": low, "high": high, "std": statistics["std"],
                        "median": statistics["median"], "n": statistics["n"]})
    return summary


def pooled_score(rows: Sequence[Row], name: str, parts: Sequence[str], wholes: Sequence[str]) -> Row:
    """A row as in `summarise`: the sum of the columns `parts` over that of `wholes`, with a bootstrap over patients."""
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        of_patient = by_patient.setdefault(row["patient"], [0.0, 0.0])
        for i, columns in enumerate((parts, wholes)):
            of_patient[i] += sum(row[column] for column in columns)
    sums = np.array(list(by_patient.values()))
    resampled = sums[np.random.default_rng(0).integers(0, len(sums), (10_000, len(sums)))].sum(1)
    resampled = resampled[resampled[:, 1] > 0]
    value = sums[:, 0].sum() / sums[:, 1].sum() if sums[:, 1].sum() else math.nan
    low, high = math.nan, math.nan
    if len(resampled):
        low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5]).tolist()
    return {"score": name, "mean": float(value), "low": low, "high": high, "std": math.nan, "median": math.nan,
            "n": int((sums[:, 1] > 0).sum())}


def fold_row(name: str, rows: Sequence[Row], study: Study) -> Row:
    """{"fold", "patients", the mean of each score over the patients}"""
    return {"fold": name, "patients": len({row["patient"] for row in rows}),
            **{score: mean(per_patient(rows, score)) for score in study.scores}}


def organ_rows(rows: Sequence[Row]) -> list[Row]:
    """[{"organ", "dice", "low", "high", "std", "n", "lowest", "hd95_mm", "assd_mm", "n_distance"}] over the patients.

    low, high: 95 % interval of Dice; n, n_distance: how many patients have a Dice, and a distance. Organs without Dice
    are left out.
    """
    summary = []
    for organ in dict.fromkeys(row["organ"] for row in rows):
        of_organ = [row for row in rows if row["organ"] == organ]
        dice, distance, surface = summarise(of_organ, ("dice", "hd95_mm", "assd_mm"))
        if dice["n"]:
            summary.append({"organ": organ, **{name: dice[key] for name, key in (
                ("dice", "mean"), ("low", "low"), ("high", "high"), ("std", "std"), ("n", "n"))},
                "lowest": min(row["dice"] for row in of_organ if math.isfinite(row["dice"])),
                "hd95_mm": distance["mean"], "assd_mm": surface["mean"], "n_distance": distance["n"]})
    return summary


def viewers(folds: Sequence["Fold"]) -> dict[str, Path]:
    """{case: viewer page} of the cases for which the folds' test.py wrote one."""
    return {case: page for fold in folds for case, page in viewer_pages(fold.scored, fold.held_out).items()}


def figures(folds: Sequence["Fold"], worst: Sequence[Row], study: Study) -> dict[str, Path]:
    """{caption: picture} of those that exist: the worst cases, each fold's contact sheet and training curves."""
    pictures, by_number = {}, {fold.number: fold for fold in folds}
    for row in worst[:PICTURES]:
        path = by_number[row["fold"]].scored / "overlays" / f"{row['case']}.png"
        if path.exists():
            score = study.scores[0]
            pictures[f"{row['case']} of fold {row['fold']}, {score} {row[score]:.3f}"] = path
    for fold in folds:
        for title, path in (("every case", fold.scored / "overlays" / "contact_sheet.png"),
                            ("training", Path(fold.run) / "curves.png")):
            if path.exists():
                pictures[f"fold {fold.number}: {title}"] = path
    return pictures
