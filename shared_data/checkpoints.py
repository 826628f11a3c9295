"""Checkpoints of networks: plain tensors, written whole, read without executing anything, loaded to the last tensor.

The framework's own calls come from the projects; nothing here imports one.
"""
import io
import warnings
import zipfile

from shared_data.errors import InputError
from shared_data.files import whole_file


def write_archive(path, save):
    """`save(stream)` into memory, then the file at once: a kill or a full disk leaves the old one."""
    buffer = io.BytesIO()
    save(buffer)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def check_archive(path):
    """Raise BadZipFile when a part of a zip archive does not fit its checksum; .pt files are such, and torch.load does
    not look. Files of other kinds pass."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"{path}: {damaged}")


def read_archive(path, load):
    """load(path), a dict, of a checkpoint that is whole; InputError for anything else. `load` executes nothing from it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files it then refuses
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


def check_origin(state, project, path):
    """Raise InputError when the state of a checkpoint is not this project's, or holds no model with its settings."""
    if state.get("project") != project:
        raise InputError(f"{path}: {state.get('project', 'not one of our checkpoints')}, not {project}. "
                         "Name a checkpoint of this project.")
    if not (isinstance(state.get("model"), dict) and isinstance(state.get("config"), dict)):
        raise InputError(f"{path}: holds no model with its settings. Take another checkpoint.")
