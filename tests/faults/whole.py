"""Which files of a folder are not what their name promises."""
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np

from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.volume import SUFFIXES, read_volume


def half_written(folder):
    """Paths of files under a final name that cannot be read to their end."""
    return [path for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and "tensorboard" not in path.parts and not is_whole(path)]


def is_whole(path):
    try:
        if path.name.lower().endswith(SUFFIXES):
            return bool(read_volume(path).GetNumberOfPixels())
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8")) is not None
        if path.suffix == ".csv":
            return read_table(path, []) is not None
        if path.suffix in (".png", ".jpg"):
            return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None
        if path.suffix in (".pt", ".pth", ".npz"):
            return zipfile.ZipFile(path).testzip() is None
        if path.suffix == ".h5":
            from lung_nodule_nasnet.table import read_columns
            return bool(read_columns(path))
        if path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    except (InputError, ValueError, OSError, zipfile.BadZipFile, cv2.error):
        return False
    return True
