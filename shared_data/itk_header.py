"""The header of a volume file as ITK reads it, and the voxels that were unpacked while the file was checked, in its
shape and type: ITK would unpack them a second time. Only volume.py needs this."""
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.named_types import Array


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress ITK's warnings on standard error."""
    display = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(display)


def read_header(path: Path) -> sitk.ImageFileReader | None:
    """ITK's reader of a file, with grid and pixel type; None for a header that ITK refuses."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def voxels_of(header: sitk.ImageFileReader, unpacked: list[Array] | bytes | None) -> Array | None:
    """The array (z, y, x) that ITK reads from the file of a header, from its slices (y, x), which are taken out of the
    list, or its bytes; None where there are none, not numbers of the header's type, or not as many."""
    shape_zyx = header.GetSize()[::-1]
    kind = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], header.GetPixelID())).dtype
    if not unpacked:
        return None
    if isinstance(unpacked, bytes):
        array = np.frombuffer(unpacked, np.uint8)
        array = array if array.size % kind.itemsize else array.view(kind)
    else:
        array = np.stack(unpacked)
        unpacked.clear()  # memory
    return array.reshape(shape_zyx) if array.dtype == kind and array.size == math.prod(shape_zyx) else None
