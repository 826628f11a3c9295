"""Does each stage improve what it is for? On phantom patients not seen in training, over several seeds.

    python -m tests.bench.focusnet_stages --folder OUT --seeds 3

The demo's cohort and settings. For each seed: all stages, then the last again without the shape constraint. Prints for
the test patients' small organs the error of their centres before (main network's voxels) and after localisation, and
Dice before and after the branches, with and without the constraint: mean, spread over seeds, each seed's value. The
same command continues after a stop.
"""
import argparse
import shutil
import statistics
from pathlib import Path

from focusnet_v2 import demo, test, train
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from shared_data.files import read_json
from shared_data.metrics import mean
from shared_data.phantoms import write_pddca_cohort

WINDOW = ("--window-side", "48")  # the centre of the slices, as by the authors; it holds these phantoms' heads

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=demo.Options.patients)
    parser.add_argument("--epochs", type=int, default=demo.Options.epochs)
    options = parser.parse_args()
    raw, prepared = options.folder / "raw", ["--prepared-dir", str(options.folder / "prepared")]
    if not (options.folder / "prepared" / "cases.csv").exists():
        write_pddca_cohort(raw, options.patients, size=demo.Options.size, slices=demo.SLICES)
        data_preprocess.main(["--data-dir", str(raw), *prepared, *demo.SPACING])
        crop_data.main([*prepared, *demo.CROP])
    settings = [*prepared, *demo.settings(options.epochs), *WINDOW, "--undrawn", "original"]
    results = [measure(options.folder / f"seed{seed}", [*settings, "--seed", str(seed)])
               for seed in range(1, options.seeds + 1)]
    for name in results[0]:
        values = [result[name] for result in results]
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        print(f"{name:58s} {statistics.mean(values):7.3f} +- {spread:.3f}   "
              + "  ".join(f"{value:.3f}" for value in values))


def measure(folder, settings):
    """{what: mean over the small organs of the test patients} of one seed."""
    train.main([*settings, "--run-dir", str(folder / "with")])
    without = folder / "without"
    for stage in ("backbone", "SOL"):
        if not (without / stage).exists():
            shutil.copytree(folder / "with" / stage, without / stage)
    train.main([*settings, "--run-dir", str(without), "--no-shape-constraint"])  # the finished stages stay
    both = {}
    for name in ("with", "without"):
        test.main(["--run-dir", str(folder / name)])
        summary = read_json(folder / name / "test" / "summary.json")
        both[name] = {key: mean(row[key] for row in summary["small_organs"])
                      for key in ("main_centre_mm", "peak_centre_mm", "dice_before", "dice_after")}
        both[name]["dice_all"] = summary["overall"]["mean_dice"]
        both[name]["n"] = sum(row["n_main_centre_mm"] for row in summary["small_organs"])
        both[name]["n_all"] = sum(row["n_peak_centre_mm"] for row in summary["small_organs"])
    one, other = both["with"], both["without"]
    return {"centre distance, main network's voxels, mm": one["main_centre_mm"],
            "  share of small organs it found at all": one["n"] / one["n_all"],
            "centre distance, heatmap's peak, mm": one["peak_centre_mm"],
            "Dice of small organs before the branches": one["dice_before"],
            "  after, with the shape constraint": one["dice_after"],
            "  after, without it": other["dice_after"],
            "  after - before": one["dice_after"] - one["dice_before"],
            "  with - without": one["dice_after"] - other["dice_after"],
            "Dice of all organs, with": one["dice_all"]}


if __name__ == "__main__":
    main()
