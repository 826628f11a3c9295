"""How often an ensemble is wrong where its members agree, and where they do not."""
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from shared_data.files import whole_file, write_table
from shared_data.named_types import Labels, Mask, Row
from shared_data.votes import vote_entropy, vote_levels


def count_errors(votes: Labels, wrong_voxels: Mask, voxels: Counter[str], wrong: Counter[str]) -> None:
    """Add to the Counters `voxels` and `wrong` the number of voxels, and of wrong ones, with each split of the votes.

    votes: (members, ...) of class ids; wrong_voxels: (...) boolean.
    """
    levels, splits = vote_levels(votes)
    for level, split in splits.items():
        has_split = levels == level
        voxels[split] += int(has_split.sum())
        wrong[split] += int((has_split & wrong_voxels).sum())


def error_table(voxels: Mapping[str, int], wrong: Mapping[str, int]) -> list[Row]:
    """[{"votes", "entropy", "voxels", "wrong", "error_rate"}] by rising entropy."""
    rows = []
    for split, number in voxels.items():
        parts = [int(part) for part in split.split("+")]
        votes = np.repeat(np.arange(len(parts)), parts)
        rows.append({"votes": split, "entropy": float(vote_entropy(votes[:, None])[0]), "voxels": number,
                     "wrong": wrong[split], "error_rate": wrong[split] / number})
    return sorted(rows, key=lambda row: row["entropy"])


def write_error_rates(folder: Path, rows: Sequence[Row]) -> None:
    """Write error_rate.csv and error_rate.png, from the rows of `error_table`."""
    write_table(folder / "error_rate.csv", rows)
    figure = Figure(figsize=(max(6, 0.9 * len(rows)), 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([f"{row['votes']}\n{abs(row['entropy']):.3f}" for row in rows], [row["error_rate"] for row in rows])
    axes.set(xlabel="split of the votes, its entropy", ylabel="error rate of the ensemble", ylim=(0, 1))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="y")
    with whole_file(folder / "error_rate.png") as temporary:
        figure.savefig(temporary, dpi=120)
