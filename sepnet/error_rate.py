"""Error rate per level of uncertainty: python error_rate.py --results-dir ../runs/sepnet/results

Takes the members' and the ensemble's segmentations and the references; writes <results>/error_rate.csv and .png.
"""
from collections import Counter

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from sepnet.members import ChainOptions, patients_of
from sepnet.uncertainty import read_votes, vote_entropy, vote_levels
from shared_data.errors import run_script
from shared_data.files import whole_file, write_table
from shared_data.settings import parse_options
from shared_data.volume import image_from, read_volume, to_lps


def main(argv=None):
    options = parse_options(ChainOptions, argv, __doc__)
    voxels, wrong = Counter(), Counter()
    for patient in patients_of(options.prepared_dir, options.split):
        votes, grid = read_votes(options.results_dir, patient)
        votes = np.stack([sitk.GetArrayFromImage(to_lps(image_from(vote, grid))) for vote in votes])
        fused = to_lps(read_volume(options.results_dir / "ensemble" / patient / "segmentation.nii.gz"))
        reference = read_volume(options.prepared_dir / options.split / patient / "reference.nii.gz")
        count_errors(votes, sitk.GetArrayFromImage(fused) != sitk.GetArrayFromImage(reference), voxels, wrong)
    rows = error_table(voxels, wrong)
    write_error_rates(options.results_dir, rows)
    for row in rows:
        print(f"{row['votes']:10s} entropy {abs(row['entropy']):7.4f}  voxels {row['voxels']:9d}  "
              f"error rate {row['error_rate']:.4f}")


def count_errors(votes, wrong_voxels, voxels, wrong):
    """Add to the Counters `voxels` and `wrong` how many voxels, and wrong ones, each split of the votes has."""
    levels, splits = vote_levels(votes)
    for level, split in splits.items():
        here = levels == level
        voxels[split] += int(here.sum())
        wrong[split] += int((here & wrong_voxels).sum())


def error_table(voxels, wrong):
    """[{"votes", "entropy", "voxels", "wrong", "error_rate"}] by rising entropy."""
    rows = []
    for split, number in voxels.items():
        votes = np.repeat(np.arange(len(split.split("+"))), [int(part) for part in split.split("+")])
        rows.append({"votes": split, "entropy": float(vote_entropy(votes[:, None])[0]), "voxels": number,
                     "wrong": wrong[split], "error_rate": wrong[split] / number})
    return sorted(rows, key=lambda row: row["entropy"])


def write_error_rates(folder, rows):
    """error_rate.csv and error_rate.png."""
    write_table(folder / "error_rate.csv", rows)
    figure = Figure(figsize=(max(6, 0.9 * len(rows)), 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([f"{row['votes']}\n{abs(row['entropy']):.3f}" for row in rows], [row["error_rate"] for row in rows])
    axes.set(xlabel="split of the votes, its entropy", ylabel="error rate of the ensemble", ylim=(0, 1))
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.3, axis="y")
    with whole_file(folder / "error_rate.png") as partial:
        figure.savefig(partial, dpi=120)


if __name__ == "__main__":
    run_script(main)
