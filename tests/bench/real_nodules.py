"""Which network draws the nodules of real patients best? Tables for a README, on the 80 test patients of lidc_crops.

    python -m tests.bench.real_nodules --data <lidc_crops> --checkpoints NASNet-GCN=runs/nasnet/best.npz \
        U-Net=runs/unet/best.npz S-Net=runs/snet/best.pt --output-dir runs/nodules

In .venv-keras; S-Net runs in .venv. A checkpoint whose name begins with U-Net is one of tests.bench.plain_unet. Slices
with a consensus (two or more of four votes) count. The threshold of each network is the one with the best pooled Dice
over every third slice of the validation patients. For comparison: a disc in the middle of each crop, where the nodule
lies in this data, its radius chosen in the same way; and the pooled Dice of two readers, from the votes. Intervals:
bootstrap over patients.
"""
import argparse
import subprocess
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import ndimage

from shared_data.files import write_table
from tests.bench.lidc_crops import CONSENSUS, held_out, read_crops
from tests.bench.nodule_pictures import draw_cases

ROOT = Path(__file__).resolve().parents[2]
CUTS = np.arange(13, 256, 13)  # of probability x 255
RADII = np.arange(1, 16)
SIZES_MM = ((0, 6), (6, 10), (10, 20), (20, np.inf))
DRAWS = 10_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoints", nargs="+", required=True, metavar="NAME=PATH")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    rows, images, votes = read_crops(options.data)
    held = held_out(rows, votes)
    slices = Slices([rows[k] for k in held], votes[held])
    results = {}
    for name, path in (pair.split("=", 1) for pair in options.checkpoints):
        maps = probability_of(name, Path(path), options, held)
        cut = slices.best(CUTS, lambda cut: maps > cut)
        print(f"{name}: cut at {cut / 255:.2f}")
        results[name] = maps > cut
    radius = slices.best(RADII, lambda radius: disc(votes.shape[1:], radius, len(held)))
    results["disc in the middle"] = disc(votes.shape[1:], radius, len(held))
    scores = {name: slices.score(masks) for name, masks in results.items()}
    report(slices, scores)
    for name, table in scores.items():
        write_table(options.output_dir / f"{name.replace(' ', '_')}.csv", table)
    first = next(iter(results))
    draw_cases(options.output_dir / "cases.png", images[held], slices, scores[first], results[first])


def probability_of(name, checkpoint, options, held):
    """(n, 128, 128) uint8, the probability x 255 of each crop `held` out; kept from an earlier call."""
    output = options.output_dir / f"{name}_maps.npz"
    if not output.exists() or output.stat().st_mtime < checkpoint.stat().st_mtime:
        python = ROOT / (".venv" if checkpoint.suffix == ".pt" else ".venv-keras") / "bin" / "python"
        subprocess.run([python, "-m", "tests.bench.nodule_maps", "--data", options.data, "--checkpoint", checkpoint,
                        "--output", output, *(["--unet"] if name.startswith("U-Net") else [])], check=True, cwd=ROOT)
    with np.load(output, allow_pickle=False) as arrays:
        return arrays["probability"][[list(arrays["rows"]).index(k) for k in held]]


def disc(shape, radius, n):
    """A disc about the middle of n crops."""
    y, x = (np.arange(length) - length / 2 for length in shape)
    return np.broadcast_to(y[:, None] ** 2 + x ** 2 <= radius ** 2, (n, *shape))


class Slices:
    """The crops held out and what the readers drew in them."""

    def __init__(self, rows, votes):
        self.rows, self.votes, self.drawn = rows, votes, votes >= CONSENSUS
        self.part = np.array([row["part"] for row in rows])
        nodules = [(row["patient"], row["nodule"]) for row in rows]
        spacing = np.array([float(row["pixel_spacing_mm"]) for row in rows])
        diameter = 2 * np.sqrt(self.drawn.sum((1, 2)) / np.pi) * spacing
        largest, most = {}, {}
        for k, nodule in enumerate(nodules):
            largest[nodule] = max(largest.get(nodule, 0), diameter[k])
            most[nodule] = max(most.get(nodule, 0), votes[k].max())
        self.nodules = nodules
        self.diameter_mm = np.array([largest[nodule] for nodule in nodules])  # of the nodule's largest slice here
        self.by_all = np.array([most[nodule] == 4 for nodule in nodules])  # nodules that all four drew

    def best(self, values, masks_of):
        """The value with the highest pooled Dice over the validation patients."""
        chosen = self.part == "valid"

        def pooled(value):
            masks = masks_of(value)[chosen]
            return 2 * (masks & self.drawn[chosen]).sum() / (masks.sum() + self.drawn[chosen].sum())
        return max(values, key=pooled)

    def score(self, masks):
        """A row for each test slice: counts of pixels, Dice, and marks that touch no reader's outline."""
        table = []
        for k in np.flatnonzero(self.part == "test"):
            mask, drawn = masks[k], self.drawn[k]
            overlap, there, marked = int((mask & drawn).sum()), int(drawn.sum()), int(mask.sum())
            parts, n = ndimage.label(mask, np.ones((3, 3)))
            touching = set(parts[self.votes[k] > 0]) - {0}  # marks that touch what any reader drew
            table.append({
                "crop": int(k), "patient": self.rows[k]["patient"], "nodule": self.rows[k]["nodule"],
                "diameter_mm": float(self.diameter_mm[k]), "by_all": int(self.by_all[k]),
                "overlap": overlap, "drawn": there, "marked": marked,
                "marked_there": int(np.isin(parts, list(touching)).sum()),
                "dice": 2 * overlap / (there + marked) if there + marked else 1.0,
                "false_marks": n - len(touching)})
        return table


def report(slices, scores):
    """Print the tables."""
    one = next(iter(scores.values()))
    print(f"\n{len(one)} slices, {len({(row['patient'], row['nodule']) for row in one})} nodules, "
          f"{len({row['patient'] for row in one})} patients\n\n"
          "| | Dice, all pixels | Dice, mean of the slices | sensitivity | precision | nodules found | false marks a "
          "slice | Dice without false marks | the same where all four drew |\n|---|---|---|---|---|---|---|---|---|")
    for name, table in scores.items():
        found = {(row["patient"], row["nodule"]): 0 for row in table}
        for row in table:
            found[row["patient"], row["nodule"]] |= row["overlap"] > 0
        print(f"| {name} | {interval(table, pooled_dice)} | {interval(table, mean_dice)} | "
              f"{interval(table, sensitivity)} | {interval(table, precision)} | "
              f"{sum(found.values())} of {len(found)} | "
              f"{np.mean([row['false_marks'] for row in table]):.2f} | "
              f"{interval(table, outline_dice)} | "
              f"{interval([row for row in table if row['by_all']], outline_dice)} |")
    print(f"| two readers | | | | | | | | {readers(slices)} |\n")
    print(f"| largest diameter | nodules, slices | {' | '.join(scores)} |\n{'|---' * (len(scores) + 2)}|")
    for low, high in SIZES_MM:
        part = {name: [row for row in table if low <= row["diameter_mm"] < high] for name, table in scores.items()}
        one = next(iter(part.values()))
        cells = [interval(table, pooled_dice) for table in part.values()]
        print(f"| {low} to {high} mm | {len({(row['patient'], row['nodule']) for row in one})}, {len(one)} | "
              + " | ".join(cells) + " |")
    for one, other in combinations(scores, 2):
        print(f"{one} - {other}: Dice, all pixels {difference(scores[one], scores[other])}")


def pooled_dice(c):
    return 2 * c["overlap"] / np.maximum(1, c["drawn"] + c["marked"])


def outline_dice(c):
    return 2 * c["overlap"] / np.maximum(1, c["drawn"] + c["marked_there"])


def mean_dice(c):
    return c["dice"] / c["slices"]


def sensitivity(c):
    return c["overlap"] / np.maximum(1, c["drawn"])


def precision(c):
    return c["overlap"] / np.maximum(1, c["marked"])


def per_patient(table):
    """{name: sums (patients,)}"""
    patients = sorted({row["patient"] for row in table})
    names = ("overlap", "drawn", "marked", "marked_there", "dice")
    sums = {name: np.zeros(len(patients)) for name in (*names, "slices")}
    for row in table:
        at = patients.index(row["patient"])
        sums["slices"][at] += 1
        for name in names:
            sums[name][at] += row[name]
    return sums


def drawn_sets(sums):
    """The sums over all patients, and over DRAWS bootstrap sets of them."""
    n = len(next(iter(sums.values())))
    sets = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    return {name: np.append(values.sum(), values[sets].sum(1)) for name, values in sums.items()}


def shown(values):
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return f"{values[0]:.3f} ({low:.3f} to {high:.3f})"


def interval(table, score):
    """"value (low to high)" """
    return shown(score(drawn_sets(per_patient(table)))) if table else "none"


def difference(one, other):
    return shown(pooled_dice(drawn_sets(per_patient(one))) - pooled_dice(drawn_sets(per_patient(other))))


def readers(slices):
    """Pooled Dice of two readers over the nodules that all four drew: 2 sum C(v, 2) / (3 sum v)."""
    chosen = np.flatnonzero((slices.part == "test") & slices.by_all)
    patients = sorted({slices.rows[k]["patient"] for k in chosen})
    pairs, total = np.zeros(len(patients)), np.zeros(len(patients))
    for k in chosen:
        vote, at = slices.votes[k].astype(int), patients.index(slices.rows[k]["patient"])
        pairs[at] += (vote * (vote - 1)).sum()
        total[at] += 3 * vote.sum()
    sums = drawn_sets({"pairs": pairs, "total": total})
    return shown(sums["pairs"] / sums["total"])


if __name__ == "__main__":
    main()
