"""The LIDC-IDRI crops of github.com/periclesanfe/Pulmoseg as a table for train.py.

    python -m tests.bench.lidc_crops --data <lidc_crops> --prepared-dir data/prepared/lidc_crops

<lidc_crops> holds slices.npz (`image` uint8 and `votes` uint8, both (n, 128, 128)) and slices.csv (`row`, `part`,
`patient`). The nodule lies in the middle of each crop, and there is no crop without one: a network that saw whole crops
would learn to draw whatever lies in the middle. So it gets windows of 48 pixels, enlarged to 96: from each slice with a
consensus (two or more of four votes) `--positives` windows with the nodule's centre anywhere inside, and from every
slice `--negatives` windows that no vote touches. Patients of the part `train` are for training, those of `valid` for
validation, those of `test` are left out.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.windows import enlarged, scaled
from shared_data.files import read_table, whole_folder, write_json, write_table
from shared_data.settings import keep_config

WINDOW = 48  # pixels
CONSENSUS = 2  # votes of four
PARTS = {"train": "train", "validation": "valid"}


def main():
    from lung_nodule_nasnet import table  # not where S-Net's maps are made: PyTables is not there
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prepared-dir", type=Path, required=True)
    parser.add_argument("--window", type=int, default=WINDOW)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--positives", type=int, default=2)
    parser.add_argument("--negatives", type=int, default=1)
    options = parser.parse_args()
    config = replace(Config(), prepared_dir=options.prepared_dir, window=options.window, size=options.size)
    rows, images, votes = read_crops(options.data)
    patients = {row["patient"]: row["part"] for row in rows if row["part"] != "test"}
    cases = []
    for patient in patients:
        chosen = [k for k, row in enumerate(rows) if row["patient"] == patient]
        cases.append(write_case(config, patient, images[chosen], votes[chosen], options))
    keep_config(config, config.prepared_dir / "config.json", ("window", "size"))
    write_table(config.prepared_dir / "scans.csv", [{"seriesuid": case, "patient": case} for case in cases])
    table.main(["--prepared-dir", str(config.prepared_dir)])
    write_split(config.prepared_dir, patients)


def read_crops(folder):
    """(rows of slices.csv, images, votes); row k describes crop k."""
    with np.load(folder / "slices.npz", allow_pickle=False) as arrays:
        images, votes = arrays["image"], arrays["votes"]
    rows = read_table(folder / "slices.csv", ["row", "part", "patient", "nodule", "slice", "pixel_spacing_mm"])
    rows.sort(key=lambda row: int(row["row"]))
    return rows, images, votes


def held_out(rows, votes):
    """Indices of the crops to score: those with a consensus, all of the test patients, every third of the others."""
    agreed = (votes >= CONSENSUS).any((1, 2))
    test, valid = (np.array([k for k, row in enumerate(rows) if row["part"] == part and agreed[k]])
                   for part in ("test", "valid"))
    return np.concatenate([test, valid[::3]])


def write_case(config, patient, images, votes, options):
    """Write the windows of a patient as preprocess.py writes a scan's slices; its name."""
    rng = np.random.default_rng([config.seed, *patient.encode()])
    windows, masks, numbers = [], [], []
    for k, (image, vote) in enumerate(zip(images, votes)):
        places = [*places_with(vote, options, rng), *places_without(vote, options, rng)]
        seen = scaled(image)
        for top, left in places:
            part = np.s_[top:top + options.window, left:left + options.window]
            windows.append(seen[part])
            masks.append((vote[part] >= CONSENSUS).astype(np.float32))
            numbers.append(k)
    masks = (enlarged(masks, options.size) > 0.5).astype(np.uint8)
    with whole_folder(config.prepared_dir / patient) as written:
        np.savez_compressed(written / "slices.npz", image=enlarged(windows, options.size), mask=masks)
        write_json(written / "case.json", {
            "seriesuid": patient, "patient": patient, "sources": ["lidc_crops"], "nodules": [], "slices": numbers,
            "has_nodule": [bool(mask.any()) for mask in masks], "nodule_pixels": int(masks.sum()), "outside_lungs": 0})
    return patient


def places_with(vote, options, rng):
    """(top, left) of windows that hold the centre of the nodule, anywhere within."""
    if not (vote >= CONSENSUS).any():
        return []
    centre = np.argwhere(vote >= CONSENSUS).mean(0).round().astype(int)
    last = vote.shape[0] - options.window
    return [tuple(int(rng.integers(max(0, c - options.window + 1), min(last, c) + 1)) for c in centre)
            for _ in range(options.positives)]


def places_without(vote, options, rng):
    """(top, left) of windows without a vote; none where the nodule is too large for that."""
    n = vote.shape[0] - options.window + 1
    summed = np.pad((vote > 0).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    w = options.window
    free = np.argwhere(summed[w:, w:] - summed[:-w, w:] - summed[w:, :-w] + summed[:-w, :-w] == 0)
    assert summed[w:, w:].shape == (n, n)
    return [tuple(map(int, place)) for place in rng.permutation(free)[:options.negatives]]


def write_split(prepared_dir, patients):
    from lung_nodule_nasnet.table import read_columns
    columns = read_columns(prepared_dir / "table.h5")
    split = {name: [i for i, patient in enumerate(columns["subject_ids"]) if patients[patient] == part]
             for name, part in PARTS.items()}
    write_json(prepared_dir / "slice_idx.json", {"split": "patient", "n_slices": len(columns["subject_ids"]),
                                                 "left_out": [], **split, **{
                                                     f"{name}_patients": [p for p in patients if patients[p] == part]
                                                     for name, part in PARTS.items()}})
    for name, chosen in split.items():
        print(f"{name}: {len(chosen)} windows, {int(columns['has_nodule'][chosen].sum())} with a nodule, "
              f"{len({columns['subject_ids'][i] for i in chosen})} patients")


if __name__ == "__main__":
    main()
