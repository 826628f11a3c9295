"""Files and folders that appear under their final name complete or not at all; locks, JSON, CSV."""
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
    """Yield a temporary path with the same suffixes; it becomes `path` when the block ends without an error."""
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
    """Lock a folder for this run. Raises InputError when another run holds it; a killed run holds nothing.

    Removes what killed runs, and killed workers of this one, left half written in the subfolders `parts`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / ".lock", fallback_to_soft=False)  # a soft lock would outlive a killed run
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
    """Raise InputError for a name that is not text: ITK would end the program."""
    if str(path).encode(errors="replace").decode() != str(path):
        raise InputError(f"{path}: its name is not valid UTF-8. Rename it.")


def check_free_space(folder: StrPath, n_bytes: float) -> None:
    """Raise OSError now rather than after the work when the disk of `folder` has fewer bytes left."""
    if shutil.disk_usage(folder).free < n_bytes:
        raise OSError(errno.ENOSPC, f"less than {n_bytes / 1e6:.0f} MB free", str(folder))


def write_json(path: StrPath, values: object) -> None:
    """Write JSON; other types become text, NaN and infinity null, since they are not valid JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(_finite(values), indent=2, ensure_ascii=False, default=str) + "\n",
                           encoding="utf-8")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: StrPath) -> Any:  # noqa: ANN401  the caller knows what the file should hold
    """The values in a JSON file. Raises InputError when it is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. {MAKE_IT}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). Write it again.") from error


def write_table(path: StrPath, rows: Sequence[Row], columns: Iterable[str] = ()) -> None:
    """Write dicts as CSV: `columns` first, even without a row, then any others in order of appearance."""
    columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: StrPath, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV file as dicts of strings. Raises InputError when it is absent or lacks one of `columns`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            rows, present = list(reader), reader.fieldnames or []
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. {MAKE_IT}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV table ({error}).") from error
    missing = [name for name in columns if name not in present]
    if missing:
        raise InputError(f"{path}: column {', '.join(missing)} is missing.")
    return rows


@contextmanager
def whole_folder(path: StrPath) -> Iterator[Path]:
    """Yield an empty temporary folder; it replaces `path` when the block ends without an error."""
    path = Path(path)
    temporary = path.parent / f".writing-{path.name}-{uuid4().hex[:8]}"  # two machines may be at work on the same case
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear_partials(folder: StrPath) -> None:
    """Remove what a killed run left half written directly in `folder`."""
    for temporary in Path(folder).glob(".writing-*"):
        shutil.rmtree(temporary, ignore_errors=True)


def fresh_folder(folder: Path, default: Path) -> None:
    """Make room for a demo: remove the default folder; any other must be empty. Raises InputError if it is not."""
    if folder != default and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: not empty. Name a new folder.")
    shutil.rmtree(folder, ignore_errors=True)
