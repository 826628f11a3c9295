"""Box plots of the organs' scores, beside the agreement of two people."""
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shared_data.files import whole_file
from shared_data.named_types import Row
from shared_data.organ_names import identity
from shared_results.human_level import Scores

PANELS = {"dice": "Dice", "hd95_mm": "HD95, mm"}
INCHES = 0.5  # of width per organ


def draw_organ_boxes(rows: Sequence[Row], path: Path, human: Mapping[tuple[str, str], Scores]) -> None:
    """Write a PNG with a box per organ and a point per case, from rows {"organ", "dice", "hd95_mm"} with finite scores.

    human: as `human_level` returns it. Organs without any score are left out.
    """
    organs = [organ for organ in dict.fromkeys(row["organ"] for row in rows)
              if any(np.isfinite(row["dice"]) for row in rows if row["organ"] == organ)]
    figure = Figure(figsize=(max(5.0, 1.5 + INCHES * len(organs)), 3.4 * len(PANELS)), layout="constrained")
    for axes, (score, title) in zip(figure.subplots(len(PANELS), 1), PANELS.items()):
        values = [[row[score] for row in rows if row["organ"] == organ and np.isfinite(row[score])] for organ in organs]
        _draw_panel(axes, values, [human.get(identity(organ)) for organ in organs], score)
        axes.set_ylabel(title)
        axes.set_xticks(range(len(organs)), [f"{organ} ({len(value)})" for organ, value in zip(organs, values)],
                        rotation=35, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_xlim(-0.7, max(len(organs), 1) - 0.3)
        axes.set_ylim(0, 1.02 if score == "dice" else None)
        axes.grid(alpha=0.3, axis="y")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_panel(axes: Axes, values: Sequence[Sequence[float]], human: Sequence[Scores | None], score: str) -> None:
    places = [place for place, value in enumerate(values) if value]
    if places:
        axes.boxplot([values[place] for place in places], positions=places, widths=0.5, manage_ticks=False,
                     showfliers=False, medianprops={"color": "black", "linewidth": 2})
    for place in places:
        spread = np.linspace(-0.12, 0.12, len(values[place])) if len(values[place]) > 1 else [0]
        axes.plot(np.add(place, spread), values[place], ".", color="C0", markersize=4)
    known = [(place, level) for place, level in enumerate(human) if level]
    if known:
        axes.errorbar([place + 0.36 for place, _ in known], [level[score] for _, level in known],
                      [level[f"{score}_std"] for _, level in known], fmt="D", color="C1", markersize=4, capsize=2,
                      label="two people: mean and standard deviation, of other patients")
