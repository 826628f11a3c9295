"""Error rate per level of uncertainty: python error_rate.py --results-dir ../runs/sepnet/results

Reads the segmentations of members and ensemble, and the references; writes <results>/error_rate.csv and .png.
"""
from collections import Counter
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from sepnet.members import ChainOptions, patients_of
from sepnet.uncertainty import read_votes
from shared_data.errors import run_script
from shared_data.settings import parse_options
from shared_data.volume import image_from, read_volume, to_lps
from shared_results.error_rates import count_errors, error_table, write_error_rates


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(ChainOptions, argv, __doc__)
    voxels, wrong = Counter[str](), Counter[str]()
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


if __name__ == "__main__":
    run_script(main)
