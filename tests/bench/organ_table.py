"""The scores of a test.py run on real patients as a table for a README: mean, 95 % interval, worst case.

    python -m tests.bench.organ_table runs/sepnet/sepnet/test [another/test ...]

For several runs on the same patients also the differences between the first and each other one. Intervals: percentile
bootstrap over patients, 10,000 samples. Only organs that somebody drew count. HD95: over the cases in which the organ
was found. Volumes: medians.
"""
import sys
from pathlib import Path

import numpy as np

from shared_data.files import read_table
from shared_data.metrics import bootstrap_interval

VOLUMES = ("prediction_ml", "reference_ml")


def main():
    folders = [Path(folder) for folder in sys.argv[1:]]
    first, *others = [print_table(folder) for folder in folders]
    for folder, other in zip(folders[1:], others):
        print(f"{folders[0]} - {folder}: Dice {difference(first, other)}")


def print_table(folder):
    """{case: mean Dice of the organs that were drawn} of a run, whose table is printed."""
    table = read_table(folder / "organs.csv", ["case", "organ", "dice", "hd95_mm", *VOLUMES])
    rows = [row for row in table if float(row["reference_ml"]) > 0]
    print(f"\n{folder}: {len({row['case'] for row in rows})} cases\n\n"
          "| organ | n | Dice | lowest | HD95 (mm) | found, drawn (ml) |\n|---|---|---|---|---|---|")
    for organ in dict.fromkeys(row["organ"] for row in table):
        mine = [row for row in rows if row["organ"] == organ]
        if not mine:
            continue
        dice, hd95, *volumes = (np.array([float(row[name]) for row in mine])
                                for name in ("dice", "hd95_mm", *VOLUMES))
        print(f"| {organ} | {len(mine)} | {interval(dice, 3)} | {dice.min():.3f} | {interval(hd95, 1)} | "
              f"{', '.join(f'{np.median(ml):.0f}' for ml in volumes)} |")
    by_case = {case: np.mean([float(row["dice"]) for row in rows if row["case"] == case])
               for case in dict.fromkeys(row["case"] for row in rows)}
    order = sorted(by_case, key=by_case.get)
    print(f"| mean over a case's organs | {len(order)} | {interval(np.array(list(by_case.values())), 3)} | "
          f"{by_case[order[0]]:.3f} | | |\nbest {order[-1]}, median {order[len(order) // 2]}, worst {order[0]}")
    return by_case


def difference(ours, others):
    """"mean (low to high)" of the paired differences of {case: score}."""
    pairs = np.array([ours[case] - others[case] for case in ours])
    low, high = bootstrap_interval(pairs)
    return f"{pairs.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def interval(values, digits):
    """"mean (low to high)" of the bootstrap, over the finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "none"
    low, high = bootstrap_interval(values)
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
