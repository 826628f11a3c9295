"""Checkpoint files: written completely or not at all, checked before they are read.

Works for any framework: its own calls to save and load are arguments.
"""
import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

from shared_data.errors import InputError
from shared_data.files import whole_file
from shared_data.named_types import StrPath


def write_archive(path: StrPath, save: Callable[[BinaryIO], object]) -> None:
    """`save(stream)` into memory, then write the file at once: a kill or a full disk leaves the old file."""
    buffer = io.BytesIO()
    save(buffer)
    with whole_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def check_archive(path: StrPath) -> None:
    """Raise BadZipFile when a member of a zip archive does not match its checksum; .pt files are zip archives, and
    torch.load does not check. Other files pass."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{path}: {damaged}")


def read_archive(path: StrPath, load: Callable[[StrPath], Any]) -> dict[str, Any]:
    """The dict that `load(path)` returns; `load` must execute nothing from the file. Raises InputError for a file that
    is missing, damaged or holds something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about pickles that it refuses anyway
            check_archive(path)
            loaded = load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such checkpoint. Train first, or name another.") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder. Name the checkpoint in it.") from None
    except PermissionError:
        raise
    except Exception as error:  # loading fails in many ways on a damaged file
        raise InputError(f"{path}: damaged, or not a checkpoint of plain tensors. Take another.") from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path}: holds a {type(loaded).__name__}, not a checkpoint. Name another.")
    return loaded


def check_origin(state: dict[str, Any], project: str, path: StrPath) -> None:
    """Raise InputError when a checkpoint is not from this project, or holds no model with its settings."""
    if state.get("project") != project:
        raise InputError(f"{path}: {state.get('project', 'not one of our checkpoints')}, not {project}. "
                         "Name a checkpoint of this project.")
    if not (isinstance(state.get("model"), dict) and isinstance(state.get("config"), dict)):
        raise InputError(f"{path}: holds no model with its settings. Take another checkpoint.")
