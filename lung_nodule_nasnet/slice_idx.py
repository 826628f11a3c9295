"""Which slices of the table train and which validate: python slice_idx.py

Writes <prepared>/slice_idx.json. By patient, so that no patient is on both sides; `--split slice` is the authors' way.
`--leave-out annotations.csv` keeps the scans of a table with a column seriesuid out of both: LUNA16 is a part of
LIDC-IDRI, and what is tested must not train.
"""
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lung_nodule_nasnet.config import STEPS, Config, Split
from lung_nodule_nasnet.table import Columns, read_columns
from shared_data.errors import InputError, run_script
from shared_data.files import only_run_in, read_json, read_table, write_json
from shared_data.folds import counted, fold_parts, natural_sort
from shared_data.named_types import StrPath
from shared_data.settings import build, given_options


def main(argv: Sequence[str] | None = None) -> None:
    config = build(Config, given_options(Split, argv, __doc__, STEPS))
    table = config.prepared_dir / "table.h5"
    columns = read_columns(table)
    left_out = set()
    if config.leave_out:
        left_out = {row["seriesuid"].strip() for row in read_table(config.leave_out, ["seriesuid"])}
        left_out &= set(columns["series_uids"])
    split = split_slices(columns, left_out, config, table)
    with only_run_in(config.prepared_dir):
        write_json(config.prepared_dir / "slice_idx.json", {
            "split": config.split, "n_slices": len(columns["series_uids"]), "left_out": sorted(left_out), **split})
    for part in ("train", "validation"):
        chosen = split[part]
        patients = {columns["subject_ids"][i] for i in chosen}
        print(f"{part}: {len(chosen)} slices, {int(columns['has_nodule'][chosen].sum())} with a nodule, "
              f"{len(patients)} patients")
    if config.leave_out:
        print(f"left out: {len(left_out)} scans named in {config.leave_out}")


def split_slices(columns: Columns, left_out: Collection[str], config: Config, table: StrPath) -> dict[str, list[int]]:
    """{"train", "validation": indices into the table}. Raises InputError when a side would have no nodule."""
    free = [i for i, uid in enumerate(columns["series_uids"]) if uid not in left_out]
    rng = np.random.default_rng(config.split_seed)
    if config.split == "slice":
        units: dict[Any, list[int]] = {i: [i] for i in free}
    else:
        rows = patient_rows(columns, left_out)
        units = {patient: rows[patient] for patient in natural_sort(rows)}
    if len(units) < 2:
        raise InputError(f"{table}: {counted(len(units), config.split)} to split; training and validation need one "
                         "each. Prepare more scans, or leave fewer out.")
    names = list(units)
    n_held = min(len(names) - 1, max(1, round(len(names) * config.validation_share)))
    held = {names[k] for k in rng.permutation(len(names))[:n_held]}
    split = {"train": sorted(i for name in names if name not in held for i in units[name]),
             "validation": sorted(i for name in held for i in units[name])}
    check_nodules(split, columns, table, "Prepare more scans, or give another --split-seed.")
    return split


def split_of(config: Config, columns: Columns) -> dict[str, Any]:
    """{"train", "validation": indices into the table}: the split as written, or with `val_fold` a patient fold of all
    but what was left out. Raises InputError when one of the two has no nodule."""
    split = read_split(config.prepared_dir, len(columns["series_uids"]))
    if not config.val_fold:
        return split
    rows = patient_rows(columns, split["left_out"])
    parts = fold_parts(rows, config.val_fold, config.prepared_dir)
    split = {part: sorted(i for name in names for i in rows[name])
             for part, names in zip(("train", "validation"), parts)}
    check_nodules(split, columns, f"{config.prepared_dir}, fold {config.val_fold}", "Prepare more scans.")
    return split


def patient_rows(columns: Columns, left_out: Collection[str]) -> dict[str, list[int]]:
    """{patient: the rows of the table that are his} without the scans left out."""
    rows: dict[str, list[int]] = {}
    for i, (patient, uid) in enumerate(zip(columns["subject_ids"], columns["series_uids"])):
        if uid not in left_out:
            rows.setdefault(patient, []).append(i)
    return rows


def check_nodules(split: Mapping[str, list[int]], columns: Columns, where: StrPath, advice: str) -> None:
    for part, chosen in split.items():
        if not columns["has_nodule"][chosen].any():
            raise InputError(f"{where}: no {part} slice holds a nodule. {advice}")


def read_split(prepared_dir: Path, n_slices: int) -> dict[str, Any]:
    """{"train", "validation": indices, "left_out"} as written; InputError when it is not of this table."""
    path = prepared_dir / "slice_idx.json"
    if not path.exists():
        raise InputError(f"{path}: no such file. Run slice_idx.py.")
    split = read_json(path)
    try:
        rows = split["train"] + split["validation"]
        usable = (split["n_slices"] == n_slices and len(set(rows)) == len(rows) and split["train"]
                  and split["validation"] and type(split["left_out"]) is list
                  and all(type(i) is int and 0 <= i < n_slices for i in rows))
    except (KeyError, TypeError):
        usable = False
    if not usable:
        raise InputError(f"{path}: damaged, or of another table. Run slice_idx.py again.")
    return split


if __name__ == "__main__":
    run_script(main)
