"""Images of files whose voxels were unpacked while they were checked: ITK would unpack them a second time. Only
volume.py needs this."""
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


def assemble(voxels: list[Array] | bytes, header: sitk.ImageFileReader) -> sitk.Image | None:
    """The 3-D image that ITK reads from the file of a header, from its slices (y, x), which are taken out of the list,
    or its bytes; None where they are not numbers of the header's type, or not as many."""
    shape_zyx = header.GetSize()[::-1]
    kind = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], header.GetPixelID())).dtype
    if isinstance(voxels, bytes):
        array = np.frombuffer(voxels, np.uint8)
        array = array if array.size % kind.itemsize else array.view(kind)
    else:
        array = np.stack(voxels)
        voxels.clear()  # memory
    if array.dtype != kind or array.size != math.prod(shape_zyx):
        return None
    image = sitk.GetImageFromArray(array.reshape(shape_zyx))
    image.SetSpacing(header.GetSpacing())
    image.SetOrigin(header.GetOrigin())
    image.SetDirection(header.GetDirection())
    return image
