"""CT volumes and masks as SimpleITK images: read, checked, reoriented, written. The geometry is always kept.

Geometry is in ITK's order (x, y, z), mm, LPS; arrays taken from an image are (z, y, x).
"""
import errno
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from shared_data.dicom import read_dicom_series
from shared_data.errors import InputError, silenced
from shared_data.files import check_free_space, check_name, whole_file
from shared_data.integrity import DAMAGE, kept, read_data, read_planes
from shared_data.itk_header import quiet, read_header, voxels_of
from shared_data.named_types import Array, Geometry, StrPath
from shared_data.packed import write_packed

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
NIFTI = (".nii", ".nii.gz")
SPACING_LIMITS_MM = (0.01, 50.0)
AIRLESS = (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkUInt16, sitk.sitkUInt32, sitk.sitkUInt64)
Grid = sitk.Image | sitk.ImageFileReader  # either has size, spacing, origin and direction


def read_volume(path: StrPath, series: str | None = None, files: Sequence[Path] = ()) -> sitk.Image:
    """A 3-D image with one number per voxel, from NIfTI, NRRD, MetaImage or a folder with a DICOM CT series.

    series, files: as for `read_dicom_series`. Raises InputError for a file that is absent, empty, cut short, not an
    image or not 3-D, and for an impossible geometry.
    """
    path = Path(path)
    if path.is_dir():
        image = read_dicom_series(path, series, files)
    else:
        _check_access(path)
        with _damage_named(path):
            unpacked = kept(read_planes(path)) if path.name.lower().endswith(NIFTI) else read_data(path)
        header, array = read_header(path), None
        if header:
            _check_grid(header, header.GetNumberOfComponents(), path)
            array = voxels_of(header, unpacked)
        image = _read_file(path) if header is None or array is None else image_from(array, geometry(header))
    _check_grid(image, image.GetNumberOfComponentsPerPixel(), path)
    return image


def open_volume(path: StrPath, series: str | None = None) -> tuple[sitk.Image | sitk.ImageFileReader, Iterator[Array]]:
    """(grid, slices (y, x) in stored order, one at a time) of what `read_volume` returns, without holding all of it.

    The grid has GetSize, GetSpacing, GetOrigin, GetDirection and GetPixelID. A NIfTI file is read once, and checked
    while its slices are taken, so take them all; other formats are read whole.
    """
    path = Path(path)
    if not path.is_dir() and path.name.lower().endswith(NIFTI):
        _check_access(path)
        slices = _checked_slices(path)
        first = next(slices)  # raises if the header is bad
        if reader := read_header(path):  # otherwise read_volume below says why it is bad, or repairs it
            _check_grid(reader, reader.GetNumberOfComponents(), path)
            return reader, chain([first], slices)
    image = read_volume(path, series)
    _extremes(image, path)
    return image, iter(sitk.GetArrayViewFromImage(image))


def read_ct(path: StrPath, series: str | None = None, files: Sequence[Path] = ()) -> sitk.Image:
    """`read_volume`, then `check_hu`; types that cannot hold air (-1024) become int32."""
    image = read_volume(path, series, files)
    check_hu(image, path)
    return sitk.Cast(image, sitk.sitkInt32) if image.GetPixelID() in AIRLESS else image


def check_hu(image: sitk.Image, path: StrPath) -> None:
    """Raise InputError when an image cannot be (part of) a CT: not finite, all equal, or all air (<= -900 HU)."""
    smallest, largest = _extremes(image, path)
    if smallest == largest:
        raise InputError(f"{path}: every voxel is {smallest:g}. A CT is needed.")
    if largest <= -900:
        raise InputError(f"{path}: nothing but air (at most {largest:g} HU). A CT in Hounsfield units is needed.")


def read_mask(path: StrPath, foreground: Collection[int] = (1,), any_label: bool = False) -> sitk.Image:
    """`read_volume`, as uint8. Raises InputError for labels other than 0 and the foreground.

    any_label: every label above 0 becomes 1 (masks that number their nodes).
    """
    image = read_volume(path)
    smallest, largest = _extremes(image, path)
    if any_label:
        if smallest < 0:
            raise InputError(f"{path}: holds {smallest:g}. A mask may hold 0 and labels above it.")
        return image if image.GetPixelID() == sitk.sitkUInt8 and largest <= 1 else sitk.Greater(image, 0)
    planes = sitk.GetArrayViewFromImage(image)
    check_labels(set().union(*(np.unique(plane).tolist() for plane in planes)), path, foreground)
    return sitk.Cast(image, sitk.sitkUInt8)


def check_labels(labels: set[float], path: StrPath, foreground: Collection[int] = (1,)) -> None:
    """Raise InputError when a mask holds labels other than 0 and the foreground."""
    unknown = sorted(labels - {0, *foreground})
    if unknown:
        raise InputError(f"{path}: labels {', '.join(f'{label:g}' for label in unknown[:8])} are unknown. "
                         f"The mask may hold 0 and {', '.join(map(str, foreground))}.")


def check_same_grid(image: Grid, mask: Grid, mask_path: StrPath) -> None:
    """Raise InputError when two images do not share size, spacing, origin and direction."""
    spacing = np.array(image.GetSpacing())
    for what, expected, found, tolerance in (
        ("size", image.GetSize(), mask.GetSize(), 0),
        ("spacing", spacing, mask.GetSpacing(), 1e-3 * spacing),
        ("origin", image.GetOrigin(), mask.GetOrigin(), 0.1 * spacing),
        ("direction", image.GetDirection(), mask.GetDirection(), 1e-3),
    ):
        if np.any(np.abs(np.subtract(expected, found)) > tolerance):
            raise InputError(f"{mask_path}: {what} {_rounded(found)} differs from the CT's {_rounded(expected)}. "
                             "Resample the mask onto the CT.")


def to_lps(image: sitk.Image) -> sitk.Image:
    """The same voxels stored so that x runs to the left, y to posterior, z to superior; z slices are axial."""
    return sitk.DICOMOrient(image, "LPS")


def onto_scan(labels_zyx: Array, scan: Geometry) -> sitk.Image:
    """Labels (z, y, x) on a CT brought to LPS -> an image on the CT's own grid. scan: that grid, by `geometry`."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(scan["direction"])
    reference = image_from(np.zeros(scan["size_xyz"][::-1], np.uint8), scan)
    labels = sitk.GetImageFromArray(labels_zyx)
    labels.CopyInformation(to_lps(reference))
    labels = sitk.DICOMOrient(labels, code)
    labels.CopyInformation(reference)
    return labels


def geometry(image: Grid) -> Geometry:
    """Size, spacing, origin and direction as plain lists, for JSON."""
    return {"size_xyz": list(image.GetSize()), "spacing_xyz": list(image.GetSpacing()),
            "origin_xyz": list(image.GetOrigin()), "direction": list(image.GetDirection())}


def image_from(array_zyx: Array, grid: Geometry) -> sitk.Image:
    """An image of an array on a grid described by `geometry`."""
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(grid["spacing_xyz"])
    image.SetOrigin(grid["origin_xyz"])
    image.SetDirection(grid["direction"])
    return image


def without_suffix(path: StrPath) -> str:
    """A path or name as text, without the suffix of a volume file."""
    text = str(path)
    return next((text[:-len(suffix)] for suffix in SUFFIXES if text.lower().endswith(suffix)), text)


def check_output(path: StrPath, source: StrPath | None = None) -> None:
    """Raise InputError when `write_volume` could not write to `path`, or would overwrite `source`."""
    path = Path(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"{path}: unknown format. The name must end with one of {' '.join(SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path}: a folder. Name a file.")
    if source and path.exists() and path.samefile(source):
        raise InputError(f"{path}: the output would overwrite the input. Name another file.")
    if path.suffix.lower() in (".mhd", ".nhdr") and not path.exists():
        for data in (path.with_suffix(suffix) for suffix in (".raw", ".zraw", ".raw.gz")):
            if data.exists():
                raise InputError(f"{path}: its data would overwrite {data.name}. Name another file.")


def write_volume(image: sitk.Image, path: StrPath) -> None:
    """Write compressed, in the format of the suffix; the file gets its name only after it has been read back equal."""
    check_output(path)
    suffix = next(suffix for suffix in SUFFIXES if str(path).lower().endswith(suffix))
    with whole_file(path) as temporary:
        check_free_space(temporary.parent, image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())
        # ITK drops part of a name like ct.nii.gz.nii.gz; .mhd and .nhdr must keep theirs: it names their data file.
        plain = temporary if suffix in (".mhd", ".nhdr") else temporary.with_name("volume" + suffix)
        try:
            with silenced():  # ITK's NIfTI writer prints its own message about a full disk
                write_packed(image, plain)
            written = sitk.ReadImage(str(plain))
        except RuntimeError as error:
            raise OSError(errno.EIO, f"could not be written whole ({_first_line(error)})", str(path)) from error
        if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)):
            raise OSError(errno.EIO, "could not be written whole", str(path))
        plain.rename(temporary)


def _check_grid(image, n_components, path):
    if "complex" in sitk.GetPixelIDValueAsString(image.GetPixelIDValue()):
        raise InputError(f"{path}: complex numbers. Hounsfield units are needed.")
    if n_components != 1:
        raise InputError(f"{path}: {n_components} numbers per voxel (a colour image?). One is needed.")
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(f"{path}: its size is {image.GetSize()}. A 3-D volume is needed.")
    low, high = SPACING_LIMITS_MM
    if not all(low <= spacing <= high for spacing in image.GetSpacing()):
        raise InputError(f"{path}: voxel spacing {image.GetSpacing()} mm is impossible. Correct the header.")
    direction = np.reshape(image.GetDirection(), (3, 3))
    if not np.isfinite([*image.GetOrigin(), *image.GetDirection()]).all():
        raise InputError(f"{path}: its origin or direction is not a number. Correct the header.")
    if np.abs(direction @ direction.T - np.eye(3)).max() > 0.02:
        raise InputError(f"{path}: its axes are not at right angles (sheared). Resample it to a regular grid.")


def _check_access(path):
    """Raise InputError for a path that need not even be tried."""
    check_name(path)
    name = path.name.lower()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    if not name.endswith(SUFFIXES):
        hint = "For DICOM, name the folder." if name.endswith(".dcm") else f"Known: {' '.join(SUFFIXES)}, DICOM folder."
        raise InputError(f"{path}: unknown format. {hint}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it.")
    if "%" in str(path) and name.endswith((".mha", ".mhd")):
        raise InputError(f"{path}: ITK cannot read MetaImages whose path holds a %. Rename it.")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. Fetch it again.")


def _checked_slices(path):
    """The slices of a NIfTI file."""
    with _damage_named(path):
        yield from read_planes(path)


@contextmanager
def _damage_named(path):
    """Turns what is raised for incomplete files, which ITK accepts, into an InputError."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{path}: damaged or cut short ({_first_line(error)}). Fetch it again.") from error


def _read_file(path):
    try:
        with quiet():
            return sitk.ReadImage(str(path))
    except RuntimeError as error:
        if "orthonormal" in str(error):
            return _read_nearly_orthonormal(path)
        raise InputError(f"{path}: not a readable volume ({_first_line(error)}). Fetch it again.") from error


def _read_nearly_orthonormal(path):
    """A NIfTI file whose axes miss the right angle by rounding, which ITK refuses; by more than 1 % is an error."""
    nifti = nibabel.load(path)
    assert isinstance(nifti, nibabel.spatialimages.SpatialImage)
    matrix = np.diag([-1.0, -1.0, 1.0]) @ nifti.affine[:3]  # RAS to LPS
    spacing = np.linalg.norm(matrix[:, :3], axis=0)
    if not np.isfinite(matrix).all() or spacing.min() == 0:
        raise InputError(f"{path}: its affine {nifti.affine.tolist()} is impossible. Correct the header.")
    left, _, right = np.linalg.svd(matrix[:, :3] / spacing)
    direction = left @ right
    if np.abs(direction - matrix[:, :3] / spacing).max() > 0.01:
        raise InputError(f"{path}: its axes are not at right angles (sheared affine). Resample it to a regular grid.")
    array = np.asanyarray(nifti.dataobj)
    if array.ndim != 3:
        raise InputError(f"{path}: its size is {array.shape}. A 3-D volume is needed.")
    return image_from(array.T, {"size_xyz": list(array.shape), "spacing_xyz": spacing.tolist(),
                                "origin_xyz": matrix[:, 3].tolist(), "direction": direction.ravel().tolist()})


def _extremes(image, path):
    array = sitk.GetArrayViewFromImage(image)
    smallest, largest = float(array.min()), float(array.max())  # NaN if any voxel is NaN
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise InputError(f"{path}: holds values that are not numbers (NaN or infinite). Replace them, by air say.")
    return smallest, largest


def _rounded(values):
    return f"({', '.join(f'{round(value, 4):.10g}' for value in values)})"


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
