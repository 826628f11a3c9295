"""Working through the cases of a cohort: a bad case does not stop the others, and a finished one is not repeated."""
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from shared_data.errors import InputError, Skipped, explained, told
from shared_data.folds import natural_sort
from shared_data.named_types import Mask, StrPath

Case = TypeVar("Case")
Outcome = TypeVar("Outcome")


def each_case(work: Callable[[Case], Outcome], cases: Sequence[Case], workers: int, unit: str = "case",
              scheduler: str | None = None, memory_gb: float = 0.0) -> Iterator[tuple[Case, Outcome | Skipped]]:
    """Yield (case, work(case)) in the order of the cases, with a progress bar.

    The work is done in `workers` processes on this machine (0: in this process), each of which may use memory_gb (0:
    its share), or on the Dask cluster at `scheduler`. `work` must be picklable, and returns `Skipped` for a case that
    has to be left out. A case that twice ended its process is `Skipped`, too, and so is one that meets a fault of the
    program, whose traceback is printed. An InputError or OSError of `work` stops the run.
    """
    work = partial(_or_fault, work)
    if scheduler or (workers and len(cases) > 1):
        from shared_data.cluster import finished  # slow to import because of Dask
        done = finished(work, cases, min(workers, len(cases)), scheduler, memory_gb)
    else:
        done = enumerate(map(work, cases))
    waiting: dict[int, Outcome | Skipped] = {}
    following = 0
    for index, outcome in tqdm(done, total=len(cases), unit=unit, disable=None):  # no bar without a terminal
        waiting[index] = outcome
        while following in waiting:
            yield cases[following], told(waiting.pop(following))
            following += 1


def _or_fault(work, case):
    try:
        return work(case)
    except Exception as error:
        skipped = explained(error)
        if skipped.traceback:
            return skipped
        raise


def say_skipped(skipped: Mapping[str, str]) -> int:
    """Print the skipped cases {case: reason} to standard error; returns the exit code, 1 if there are any."""
    for case, reason in skipped.items():
        print(f"skipped {printable(case)}: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def overgrown_notes(filled: Sequence[Mask] | Mask, classes: Sequence[str]) -> list[str]:
    """A line for each class that fills more than half of some case, as no organ does; filled: boolean (cases, C)."""
    return [f"note: {name} fills more than half of {number} of {len(filled)} cases: not an organ yet"
            for name, number in zip(classes, np.sum(filled, axis=0, dtype=int)) if number]


def all_skipped(folder: StrPath, skipped: Mapping[str, str]) -> InputError:
    """The error of a cohort without one usable case."""
    return InputError(f"{folder}: no case could be used. "
                      + " | ".join(f"{printable(case)}: {reason}" for case, reason in skipped.items()))


def printable(name: str) -> str:
    """A file name made fit for a message, even one with line breaks or bytes that are not text."""
    return name if name.isprintable() else ascii(name)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a cohort's `folder`, in natural order, without hidden ones. Raises InputError if `folder`
    does not exist."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the cohort with --data-dir.")
    return natural_sort(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def check_case_name(folder: Path, reserved: Collection[str] = ()) -> None:
    """Raise InputError if the prepared folder, with its `reserved` names, cannot hold a folder of the same name."""
    name = folder.name
    if name in ("", "..", *reserved) or not name.isprintable() or len(os.fsencode(name)) > 200:
        raise InputError(f"{str(folder)!a}: a case of this name cannot be prepared. Rename it.")


def check_apart(raw: Path, prepared: Path) -> None:
    """Raise InputError if one of the two folders lies within the other, or both are the same."""
    source, target = raw.resolve(), prepared.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise InputError(f"{prepared}: the prepared folder and {raw} must lie apart. Name another.")


def fingerprint(path: Path) -> list[list[int]]:
    """[[size in bytes, time of change in ns]] of a file, or of all files in a folder; tells whether they changed."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
