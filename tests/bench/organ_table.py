"""The scores of a test.py run over real patients as a table for a README: mean, 95 % interval, worst case.

    python -m tests.bench.organ_table runs/sepnet/openkbp/test [another/test ...]

Intervals: percentile bootstrap over patients, 10,000 draws. HD95: over the cases in which the organ was found.
"""
import sys
from pathlib import Path

import numpy as np

from shared_data.files import read_table


def main():
    for folder in map(Path, sys.argv[1:]):
        rows = read_table(folder / "organs.csv", ["case", "organ", "dice", "hd95_mm"])
        print(f"\n{folder}: {len({row['case'] for row in rows})} cases\n\n| organ | n | Dice | lowest | HD95 (mm) |\n"
              "|---|---|---|---|---|")
        means = {}
        for organ in dict.fromkeys(row["organ"] for row in rows):
            mine = [row for row in rows if row["organ"] == organ]
            dice, hd95 = (finite([float(row[name] or "nan") for row in mine]) for name in ("dice", "hd95_mm"))
            means.update({row["case"]: means.get(row["case"], []) + [float(row["dice"])] for row in mine
                          if np.isfinite(float(row["dice"] or "nan"))})
            if len(dice):
                print(f"| {organ} | {len(dice)} | {interval(dice, 3)} | {dice.min():.3f} | {interval(hd95, 1)} |")
        by_case = {case: np.mean(values) for case, values in means.items()}
        print(f"| mean over a case's organs | {len(by_case)} | {interval(np.array(list(by_case.values())), 3)} | "
              f"{min(by_case.values()):.3f} | |")
        order = sorted(by_case, key=by_case.get)
        print(f"best {order[-1]}, median {order[len(order) // 2]}, worst {order[0]}")


def finite(values):
    values = np.array(values)
    return values[np.isfinite(values)]


def interval(values, digits, draws=10_000):
    """"mean (low to high)" of the bootstrap."""
    if not len(values):
        return "none"
    means = np.random.default_rng(0).choice(values, (draws, len(values))).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
