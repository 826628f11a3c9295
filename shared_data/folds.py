"""Folds by order of names, without randomness: a patient is in the same fold everywhere."""
import re
from collections.abc import Collection, Iterable

from shared_data.errors import InputError
from shared_data.named_types import StrPath

N_FOLDS = 5


def natural_sort(names: Iterable[str]) -> list[str]:
    """Sorted with the numbers in the names by value: P2 before P10."""
    return sorted(names, key=_natural_key)


def _natural_key(name):
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts], name


def counted(number: int, noun: str) -> str:
    """1 patient, 2 patients."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def hold_out(patients: Iterable[str], share: float) -> tuple[list[str], list[str]]:
    """(remaining, held-out) patients: the last `share` of the naturally sorted names is held out, at least one."""
    patients = natural_sort(patients)
    n_held_out = max(1, round(len(patients) * share))
    return patients[:-n_held_out], patients[-n_held_out:]


def make_folds(patients: Iterable[str], n_folds: int = N_FOLDS) -> list[list[str]]:
    """Consecutive parts of the naturally sorted names, sizes equal or one apart; no more of them than patients."""
    patients = natural_sort(patients)
    n_folds = min(n_folds, len(patients))
    ends = [len(patients) * fold // n_folds for fold in range(n_folds + 1)]
    return [patients[start:stop] for start, stop in zip(ends, ends[1:])]


def fold_numbers(patients: Collection[str], where: StrPath) -> range:
    """The numbers of the folds, from 1. Raises InputError, naming the cohort `where`, when training or validation would
    have no patient."""
    n_folds = len(make_folds(patients))
    if n_folds < 2:
        raise InputError(f"{where}: {counted(n_folds, 'patient')} to make folds of; training and validation need one "
                         "each. Prepare more.")
    return range(1, n_folds + 1)


def fold_parts(patients: Collection[str], fold: int, where: StrPath) -> tuple[list[str], list[str]]:
    """(training, held-out) patients of a fold; folds count from 1. Raises InputError for a fold that does not exist."""
    numbers = fold_numbers(patients, where)
    if fold not in numbers:
        raise InputError(f"--val-fold {fold}: {where} has {len(numbers)} folds, from 1.")
    folds = make_folds(patients)
    return [name for number, names in zip(numbers, folds) if number != fold for name in names], folds[fold - 1]


def check_unseen(cases: Iterable[str], trained_on: Iterable[str], path: StrPath) -> None:
    """Raise InputError when the network of the checkpoint `path` is to be scored on `cases` that it was trained on."""
    if leaked := natural_sort(set(cases) & set(trained_on)):
        named = ", ".join(leaked if len(leaked) <= 3 else [*leaked[:3], "..."])
        raise InputError(f"{path}: has learnt from {named}, which is to be scored. Use the fold that held it out, or "
                         "train again if the cohort has been prepared anew.")
