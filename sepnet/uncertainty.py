"""Where the members disagree: python uncertainty.py --results-dir ../runs/sepnet/results

Takes every <results>/<member>/<patient>/segmentation.nii.gz; writes <results>/ensemble/<patient>/uncertainty.nii.gz:
the entropy of the members' votes (natural logarithm, float32), on the CT's own grid.
"""
import numpy as np
import SimpleITK as sitk

from sepnet.ensemble_seg import member_folders
from sepnet.members import ChainOptions, patients_of
from shared_data.errors import run_script
from shared_data.settings import parse_options
from shared_data.volume import check_same_grid, geometry, image_from, read_volume, write_volume


def main(argv=None):
    options = parse_options(ChainOptions, argv, __doc__)
    for patient in patients_of(options.prepared_dir, options.split):
        votes, grid = read_votes(options.results_dir, patient)
        entropy = vote_entropy(votes)
        write_volume(image_from(entropy, grid), options.results_dir / "ensemble" / patient / "uncertainty.nii.gz")
        print(f"{patient}: {len(votes)} members, disagreement in {(entropy > 0).sum()} voxels")


def read_votes(results_dir, patient):
    """(votes (members, z, y, x), geometry) of the members' segmentations, as stored."""
    paths = [folder / "segmentation.nii.gz" for folder in member_folders(results_dir, patient)]
    images = [read_volume(path) for path in paths]
    for image, path in zip(images, paths):
        check_same_grid(images[0], image, path)
    return np.stack([sitk.GetArrayFromImage(image) for image in images]), geometry(images[0])


def vote_entropy(votes):
    """Entropy (...) of the classes in votes (members, ...): -sum p log(p + 1e-5), float32 (authors).

    So unanimity is -1e-5; six members split 5+1 give 0.4505, 4+2 0.6365, 3+3 0.6931, 3+2+1 1.0114.
    """
    return -np.log(agreement(votes) / len(votes) + 1e-5).mean(0).astype(np.float32)


def vote_levels(votes):
    """(level (...), {level: split as text, "5+1" say}): how the members split, exactly, whatever the entropy."""
    count = np.sort(agreement(votes), axis=0)[::-1]
    code = np.zeros(votes.shape[1:], np.int64)
    for row in count:
        code = code * (len(votes) + 1) + row
    found, first = np.unique(code, return_index=True)
    splits = {}
    for level, index in zip(found, first):
        column = count.reshape(len(votes), -1)[:, index]
        splits[int(level)] = "+".join(str(c) for c in np.unique(column)[::-1] for _ in range((column == c).sum() // c))
    return code, splits


def agreement(votes):
    """(members, ...): how many members, itself included, vote as this one does."""
    return np.stack([(votes == vote).sum(0, dtype=np.uint8) for vote in votes])


if __name__ == "__main__":
    run_script(main)
