"""Slices to folds: slices.csv -> <prepared>/folds/fold<f>/{train,valid,test}_{with,without}_node.txt.

By patient, in natural order: of 221 the first 200 make five folds and the last 21 are the test set; other cohorts are
split in the same proportion. No patient is in two of train, valid and test.
"""
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from shared_data.errors import InputError, run_script
from shared_data.files import only_run_in, read_table, whole_folder
from shared_data.folds import counted, hold_out, make_folds
from shared_data.named_types import StrPath
from shared_data.settings import parse_options
from snet_neck_ln.config import STEPS, Prepared

TEST_SHARE = 21 / 221  # paper
N_FOLDS = 5
PARTS = ("train", "valid", "test")
SLICE_PATH = r"[^/]+/files/\d+\.npz"
LAST_LINE = "# {} slices"  # ends each list; one that was cut short lacks it


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_options(Prepared, argv, __doc__, STEPS)
    table = config.prepared_dir / "slices.csv"
    rows = read_table(table, ["patient", "path", "has_node"])
    for row in rows:
        if row["has_node"] not in ("0", "1") or not re.fullmatch(SLICE_PATH, row["path"] or ""):
            raise InputError(f"{table}: damaged at {row['path']!r}. Run data_process_lymph_node.py again.")
    folds = split_patients({row["patient"] for row in rows}, config.prepared_dir)
    with only_run_in(config.prepared_dir), whole_folder(config.prepared_dir / "folds") as temporary:
        for number, parts in enumerate(folds, 1):
            write_fold(temporary / f"fold{number}", parts, rows)
            print(f"fold {number}: " + ", ".join(f"{part} {len(parts[part])} patients" for part in PARTS))


def split_patients(patients: Collection[str], source: StrPath) -> list[dict[str, list[str]]]:
    """[{"train", "valid", "test": names}], one per fold (five, or fewer for fewer than six patients).

    Raises InputError, naming `source`, for fewer than 3 patients.
    """
    if len(patients) < 3:
        raise InputError(f"{source}: {counted(len(patients), 'patient')}; train, valid and test need one each. "
                         "Prepare at least 3.")
    others, test = hold_out(patients, TEST_SHARE)
    folds = make_folds(others, N_FOLDS)
    return [{"train": [name for fold in folds if fold is not valid for name in fold], "valid": valid, "test": test}
            for valid in folds]


def write_fold(folder: Path, parts: Mapping[str, Sequence[str]], rows: Sequence[Mapping[str, str]]) -> None:
    """Write the slice lists of a fold; parts: {part: patients}; rows: of slices.csv."""
    folder.mkdir()
    for part, patients in parts.items():
        for suffix, has_node in (("with_node", "1"), ("without_node", "0")):
            paths = [row["path"] for row in rows if row["patient"] in patients and row["has_node"] == has_node]
            text = "".join(path + "\n" for path in [*paths, LAST_LINE.format(len(paths))])
            (folder / f"{part}_{suffix}.txt").write_text(text, encoding="utf-8")


def fold_numbers(prepared_dir: StrPath) -> list[int]:
    """Numbers of the folds that exist, from 1. Raises InputError if there is none."""
    numbers = sorted(int(path.name[4:]) for path in (Path(prepared_dir) / "folds").glob("fold*")
                     if path.name[4:].isdecimal())
    if not numbers:
        raise InputError(f"{prepared_dir}: no folds in it. Run data_process_lymph_node.py and data_parser.py first.")
    return numbers


def read_fold(prepared_dir: StrPath, fold: int, part: str) -> tuple[list[str], list[str]]:
    """(paths of slices with a node, paths of slices without) of "train", "valid" or "test". Raises InputError."""
    folder = Path(prepared_dir) / "folds" / f"fold{fold}"
    if not folder.is_dir():
        existing = ", ".join(sorted(path.name for path in folder.parent.glob("fold*"))) or "no folds"
        raise InputError(f"{folder}: no such fold ({existing} there). Run data_parser.py, or give another --val-fold.")
    return _read_list(folder / f"{part}_with_node.txt"), _read_list(folder / f"{part}_without_node.txt")


def fold_patients(prepared_dir: StrPath, fold: int, part: str) -> set[str]:
    """Names of the patients in "train", "valid" or "test" of a fold. Raises InputError."""
    with_node, without_node = read_fold(prepared_dir, fold, part)
    return {path.split("/")[0] for path in with_node + without_node}


def _read_list(path):
    try:
        *lines, last = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ValueError):  # ValueError: not text, or empty
        lines, last = [], ""
    if last != LAST_LINE.format(len(lines)) or not all(re.fullmatch(SLICE_PATH, line) for line in lines):
        raise InputError(f"{path}: damaged, cut short or missing. Run data_parser.py again.")
    return lines


if __name__ == "__main__":
    run_script(main)
