"""Files appear under their final name complete, or not at all."""
import csv
import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from shared_data.errors import InputError
from shared_data.named_types import Row, StrPath

MAKE_IT = "Run the step that writes it, or name another."


@contextmanager
def whole_file(path: StrPath) -> Iterator[Path]:
    """Give a temporary path with the same suffixes; it becomes `path` when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    try:
        yield folder / path.name
        # A header (.mhd) is moved after the data file it names.
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            os.replace(part, path.parent / part.name)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # not the temporary name
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def only_run_in(folder: StrPath, *parts: StrPath) -> Iterator[None]:
    """Hold a folder for this run; InputError when another run holds it. A killed run holds nothing.

    What killed runs, or killed workers of this one, left half written in the folder's `parts` is removed.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / ".lock", fallback_to_soft=False)  # a soft one would outlast a killed run
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        raise InputError(f"{folder}: another run is at work here. Wait for it, or name another folder.") from None
    with held:
        for part in parts:
            clear_partials(Path(folder) / part)
        yield
        for part in parts:
            clear_partials(Path(folder) / part)


def check_name(path: StrPath) -> None:
    """Raise InputError for a name that is no text: ITK ends the program over it."""
    if str(path).encode(errors="replace").decode() != str(path):
        raise InputError(f"{path}: its name is no text (UTF-8). Rename it.")


def check_free_space(folder: StrPath, n_bytes: float) -> None:
    """Raise OSError now rather than after the work, when `folder` has not so many bytes left."""
    if shutil.disk_usage(folder).free < n_bytes:
        raise OSError(errno.ENOSPC, f"less than {n_bytes / 1e6:.0f} MB free", str(folder))


def write_json(path: StrPath, values: object) -> None:
    """What JSON does not know becomes text; NaN and infinity, which no other reader takes, null."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(_finite(values), indent=2, ensure_ascii=False, default=str) + "\n",
                           encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: StrPath) -> Any:  # noqa: ANN401  what a file should hold, its reader knows
    """Raises InputError when the file is absent or no JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. {MAKE_IT}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). Write it again.") from error


def write_table(path: StrPath, rows: Sequence[Row], columns: Iterable[str] = ()) -> None:
    """CSV of a list of dicts: `columns`, which are there without a row, too, then others in order of appearance."""
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: StrPath, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV as dicts of strings. Raises InputError when it is absent or lacks one of `columns`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, there = list(reader), reader.fieldnames or []
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. {MAKE_IT}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table ({error}).") from error
    missing = [name for name in columns if name not in there]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing.")
    return rows


@contextmanager
def whole_folder(path: StrPath) -> Iterator[Path]:
    """Give an empty temporary folder; it becomes `path`, replacing what was there, when the block ends well."""
    path = Path(path)
    partial = path.parent / f".writing-{path.name}-{uuid4().hex[:8]}"  # two machines may have taken up the same case
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def clear_partials(folder: StrPath) -> None:
    """Remove what a killed run left half written in `folder`."""
    for partial in Path(folder).glob(".writing-*"):
        shutil.rmtree(partial, ignore_errors=True)


def fresh_folder(folder: Path, default: Path) -> None:
    """Make room for a demo: the default folder is emptied, another must be empty already."""
    if folder != default and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: not empty. Name a new folder.")
    shutil.rmtree(folder, ignore_errors=True)
