"""processed/ as nnU-Net's Dataset600_RetroLN, in LPS, and its folds by patient."""
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from retroln_nnunet.config import Config
from shared_data.errors import InputError
from shared_data.files import read_json, whole_folder, write_json
from shared_data.folds import counted, hold_out, make_folds, natural_sort
from shared_data.named_types import Row
from shared_data.volume import check_same_grid, read_mask, read_volume, to_lps, write_volume

DATASET = "Dataset600_RetroLN"
N_FOLDS = 5


def build_dataset(config: Config) -> dict[str, str]:
    """Write nnUNet_raw/Dataset600_RetroLN; {case: why it was left out}. A finished one of the same cases is kept."""
    folder = config.nnunet_dir / "nnUNet_raw" / DATASET
    rows = read_report(config.prepared_dir)
    cases = natural_sort(row["case"] for row in rows if row.get("mask_voxels") is not None)
    if not cases:
        raise InputError(f"{config.prepared_dir}: no case with a mask. Run crop.py with --mask-dir.")
    if not any(row.get("mask_voxels") for row in rows):
        raise InputError(f"{config.prepared_dir}: not one mask holds a node. Check the masks.")
    train_cases, test_cases = split_cases(cases, config)
    recipe = {"train": train_cases, "test": test_cases, "report": rows}
    if (folder / "recipe.json").exists() and read_recipe(folder)["recipe"] == recipe:
        return read_recipe(folder)["skipped"]
    skipped, written = {}, 0
    with whole_folder(folder) as partial:
        for part, names in (("Tr", train_cases), ("Ts", test_cases)):
            for case in tqdm(names, f"cases {part}", unit="case", disable=None):
                try:
                    add_case(partial, part, case, config)
                    written += part == "Tr"
                except InputError as error:
                    skipped[case] = str(error)
        if written < 2:
            raise InputError(f"{config.prepared_dir}: {written} cases to train on; at least 2 are needed. "
                             + " | ".join(f"{case}: {reason}" for case, reason in skipped.items()))
        write_json(partial / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lymph": 1},
                                              "numTraining": written, "file_ending": ".nii.gz"})
        write_json(partial / "recipe.json", {"recipe": recipe, "skipped": skipped})
    return skipped


def read_report(prepared_dir: Path) -> list[Row]:
    """Rows of crop.py's report.json. Raises InputError when it is absent or damaged."""
    path = prepared_dir / "report.json"
    if not path.exists():
        raise InputError(f"{path}: no such file. Run crop.py, or name its output with --prepared-dir.")
    try:
        return [{**row, "case": row["case"]} for row in read_json(path)["cases"]]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged. Run crop.py again.") from error


def read_recipe(folder: Path) -> dict[str, Any]:
    """{"recipe": {"train", "test", "report"}, "skipped"} of a data set. Raises InputError when absent or damaged."""
    recipe = read_json(folder / "recipe.json")
    try:
        names = [*recipe["recipe"]["train"], *recipe["recipe"]["test"], *recipe["skipped"]]
    except (TypeError, KeyError) as error:
        raise InputError(f"{folder / 'recipe.json'}: damaged. Delete it and run train.py again.") from error
    if not all(type(name) is str for name in names):
        raise InputError(f"{folder / 'recipe.json'}: damaged. Delete it and run train.py again.")
    return recipe


def add_case(folder: Path, part: str, case: str, config: Config) -> None:
    image_path = config.prepared_dir / "images" / f"{case}_0000.nii.gz"
    label_path = config.prepared_dir / "labels" / f"{case}.nii.gz"
    image, label = to_lps(read_volume(image_path)), to_lps(read_mask(label_path))
    check_same_grid(image, label, label_path)
    write_volume(image, folder / f"images{part}" / f"{case}_0000.nii.gz")
    write_volume(label, folder / f"labels{part}" / f"{case}.nii.gz")


def split_cases(cases: Sequence[str], config: Config) -> tuple[list[str], list[str]]:
    """(cases to train and validate on, held-out cases); the cases of a patient stay together."""
    patients = by_patient(cases, config.patient_pattern)
    if config.test_share == 0:
        return list(cases), []
    if len(patients) < 3:
        raise InputError(f"{config.prepared_dir}: {counted(len(patients), 'patient')}; train, validation and test need "
                         "one each. Crop at least 3, or give --test-share 0.")
    train, test = hold_out(patients, config.test_share)
    return [case for name in train for case in patients[name]], [case for name in test for case in patients[name]]


def by_patient(cases: Iterable[str], pattern: str) -> dict[str, list[str]]:
    """{patient: its cases}; the patient is what the pattern finds in the case id (its first group, if any)."""
    patients: dict[str, list[str]] = {}
    for case in cases:
        match = re.search(pattern, case)
        name = match and match[match.re.groups and 1]
        if not name:
            raise InputError(f"case {case}: --patient-pattern {pattern!r} finds nothing in it.")
        patients.setdefault(name, []).append(case)
    return patients


def make_splits(cases: Sequence[str], config: Config) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json: five folds (fewer for fewer patients), by patient."""
    patients = by_patient(cases, config.patient_pattern)
    folds = make_folds(patients, N_FOLDS)
    if config.fold >= len(folds):
        raise InputError(f"--fold {config.fold}: there are {len(folds)} folds, from 0.")
    if len(folds) < 2:
        raise InputError("all cases belong to one patient; validation needs another. Check --patient-pattern.")
    return [{"train": [case for fold in folds if fold is not val for name in fold for case in patients[name]],
             "val": [case for name in val for case in patients[name]]} for val in folds]
