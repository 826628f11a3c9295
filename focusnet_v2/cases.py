"""Which cases train, which choose the epoch, which are scored; which organs each of them has."""
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from focusnet_v2.config import Config, CropConfig, Prepared
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.folds import counted, fold_parts, hold_out, natural_sort
from shared_data.named_types import Array
from shared_data.organs import check_same_organs
from shared_data.settings import load_config, note_differences

Pair = tuple[str, str]  # (case, part)
PARTS = ("train", "valid", "test")
HELD_OUT = 0.2  # of the training cases, to choose the epoch

# PDDCA, names after 0522c.
TRAIN = ("0001 0002 0003 0009 0013 0014 0017 0057 0070 0077 0079 0081 0125 0132 0147 0149 0159 0161 0190 0195 0226 "
         "0248 0251 0253 0328").split()
ADDITIONAL = "0329 0330 0427 0433 0441 0455 0457 0479".split()
OFF_SITE = "0555 0576 0598 0659 0661 0667 0669 0708 0727 0746".split()
ON_SITE = "0788 0806 0845 0857 0878".split()


def assign_parts(names: Sequence[str], config: CropConfig,
                 published: Mapping[str, str] | None = None) -> tuple[list[Pair], str | None]:
    """([(case, part)], a note or None): a case in two parts stands there twice (`--split authors` only).

    published: {case: part} of a layout that comes with its own.
    """
    if config.cases_csv:
        return own_split(names, config.cases_csv), None
    if published and config.split != "names":
        return [(name, published[name]) for name in names], None
    known = {f"0522c{number}" for number in (*TRAIN, *ADDITIONAL, *OFF_SITE, *ON_SITE)}
    if config.split != "names" and known.issuperset(names):
        pairs = pddca_split(names, config.split)
        if {part for _, part in pairs} == set(PARTS):
            return pairs, None
    if len(names) < 3:
        raise InputError(f"{counted(len(names), 'usable case')}; train, valid and test need at least one each. "
                         "Prepare 3 or more, or give --cases-csv.")
    others, test = hold_out(names, HELD_OUT)
    train, valid = hold_out(others, HELD_OUT)
    note = "not PDDCA's cases, or too few of them: split by name, a fifth each for test and validation"
    return ([(name, part) for part, cases in zip(PARTS, (train, valid, test)) for name in cases],
            None if config.split == "names" else note)


def pddca_split(names: Collection[str], split: str) -> list[Pair]:
    """"challenge": 25 + 8 cases train, a fifth of them held out, 10 + 5 test. "authors": 25 + 8 + 5 train, and the 10
    both choose the epoch and are scored."""
    def of(*groups):
        wanted = {f"0522c{number}" for group in groups for number in group}
        return natural_sort(wanted.intersection(names))

    if split == "authors":
        parts = of(TRAIN, ADDITIONAL, ON_SITE), of(OFF_SITE), of(OFF_SITE)
    else:
        train = of(TRAIN, ADDITIONAL)
        parts = (*(hold_out(train, HELD_OUT) if train else ([], [])), of(OFF_SITE, ON_SITE))
    return [(name, part) for part, cases in zip(PARTS, parts) for name in cases]


def own_split(names: Collection[str], path: Path) -> list[Pair]:
    """(case, part) of a table with these columns; its cases must be there, others of the cohort are left out."""
    pairs = [(row["case"], row["part"]) for row in read_table(path, ["case", "part"])]
    for name, part in pairs:
        if part not in PARTS:
            raise InputError(f"{path}: part {part!r} of case {name}. Valid: {', '.join(PARTS)}.")
        if name not in names:
            raise InputError(f"{path}: case {name} is not among the prepared ones. Correct the name, or prepare it.")
    absent = set(PARTS) - {part for _, part in pairs}
    if absent:
        raise InputError(f"{path}: no {' and no '.join(sorted(absent))} case. Each part needs one.")
    return pairs


def check_table(config: Config) -> None:
    """Raise InputError when the cases were prepared with another label table than the network has; say when their
    voxels are others."""
    path = config.prepared_dir / "config.json"
    prepared = load_config(Config, path)
    check_same_organs(config.organs, prepared.organs, path)
    note_differences(prepared, config, ("spacing_xyz", "resample_axes"), path)


def cases_of(config: Config, part: str) -> list[str]:
    """Names of the cases of a part. With `val_fold` train and valid are those of a patient fold, made of both; what is
    a test case stays apart."""
    rows = read_prepared(config, "cases.csv", ["case", "part"])
    names = [row["case"] for row in rows if row["part"] == part]
    if config.val_fold and part != "test":
        train, valid = fold_parts(fold_patients(rows), config.val_fold, config.prepared_dir)
        names = train if part == "train" else valid
    if not names:
        raise InputError(f"{config.prepared_dir / 'cases.csv'}: no {part} case. Run crop_data.py again.")
    return names


def fold_patients(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The patients that folds are made of, from the rows of cases.csv."""
    test = {row["case"] for row in rows if row["part"] == "test"}
    return list(dict.fromkeys(row["case"] for row in rows if row["case"] not in test))


def read_presence(config: Config) -> dict[str, list[int]]:
    """{case: [1 or 0 for each class]}"""
    rows = read_prepared(config, "presence.csv", ["case", *config.classes])
    if any(row[name] not in ("0", "1") for row in rows for name in config.classes):
        raise InputError(f"{config.prepared_dir / 'presence.csv'}: holds values other than 0 and 1. Run crop_data.py "
                         "again.")
    return {row["case"]: [int(row[name]) for name in config.classes] for row in rows}


def read_prepared(config: Prepared, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table that crop_data.py wrote."""
    path = config.prepared_dir / name
    if not path.exists():
        raise InputError(f"{path}: no such file. Run data_preprocess.py and crop_data.py, or give --prepared-dir.")
    return read_table(path, columns)


def presence_flags(labels: Collection[int] | Array, n_classes: int) -> list[int]:
    """1 for each class whose label is there; the background counts only when every organ does."""
    organs = [int(label in labels) for label in range(1, n_classes)]
    return [int(all(organs)), *organs]
