"""Where the members disagree: python uncertainty.py --results-dir ../runs/sepnet/results

Reads every <results>/<member>/<patient>/segmentation.nii.gz; writes <results>/ensemble/<patient>/uncertainty.nii.gz:
the entropy of the members' votes (in nats, float32) on the CT's own grid.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from sepnet.ensemble_seg import member_folders
from sepnet.members import ChainOptions, patients_of
from shared_data.errors import run_script
from shared_data.named_types import Geometry, Labels
from shared_data.settings import parse_options
from shared_data.volume import check_same_grid, geometry, image_from, read_volume, write_volume
from shared_data.votes import vote_entropy


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(ChainOptions, argv, __doc__)
    for patient in patients_of(options.prepared_dir, options.split):
        votes, grid = read_votes(options.results_dir, patient)
        entropy = vote_entropy(votes)
        write_volume(image_from(entropy, grid), options.results_dir / "ensemble" / patient / "uncertainty.nii.gz")
        print(f"{patient}: {len(votes)} members, disagreement in {(entropy > 0).sum()} voxels")


def read_votes(results_dir: Path, patient: str) -> tuple[Labels, Geometry]:
    """(votes (members, z, y, x), their geometry): the members' segmentations as stored. Raises InputError."""
    paths = [folder / "segmentation.nii.gz" for folder in member_folders(results_dir, patient)]
    images = [read_volume(path) for path in paths]
    for image, path in zip(images, paths):
        check_same_grid(images[0], image, path)
    return np.stack([sitk.GetArrayFromImage(image) for image in images]), geometry(images[0])


if __name__ == "__main__":
    run_script(main)
