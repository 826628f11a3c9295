"""A CT that anybody can check: a ball with a hole through it, in slices that lie wherever a test wants them."""
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series

CENTRE, RADIUS, BORE = np.array([5.0, -20.0, 130.0]), 16.0, 5.0  # mm; the bore runs along z


def in_ball(points):
    """Which points (..., 3) in mm belong to it."""
    away = points - CENTRE
    return (np.linalg.norm(away, axis=-1) < RADIUS) & (np.hypot(away[..., 0], away[..., 1]) > BORE)


def pixels(position, orientation, spacing, shape):
    """Places (rows, columns, 3) of a slice's pixels, mm."""
    row, column = np.reshape(orientation, (2, 3))
    y, x = np.indices(shape)
    return np.array(position) + x[..., None] * spacing[0] * row + y[..., None] * spacing[1] * column


def draw(folder, positions, orientation=(1, 0, 0, 0, 1, 0), spacing=(1.0, 1.25), shape=(44, 52)):
    """Write slices at these positions as a series; (files, masks of the ball in them), in the positions' order."""
    masks = np.stack([in_ball(pixels(position, orientation, spacing, shape)) for position in positions])
    image = sitk.GetImageFromArray(np.where(masks, 50, -950).astype(np.int16))
    image.SetSpacing((*spacing, 1.0))
    write_dicom_series(image, folder)
    files = sorted(folder.glob("*.dcm"))
    for file, position in zip(files, positions):
        slice_ = pydicom.dcmread(file)
        slice_.ImageOrientationPatient = [f"{cosine:.10g}" for cosine in orientation]
        slice_.ImagePositionPatient = [f"{mm:.10g}" for mm in position]
        slice_.save_as(file)
    return files, masks


@pytest.fixture(scope="session")
def ball():
    """The functions above, and what they draw."""
    return SimpleNamespace(draw=draw, inside=in_ball, pixels=pixels, centre=CENTRE, radius=RADIUS)


@pytest.fixture
def stack():
    """(step, n, orientation) -> positions of n slices around the ball, so many mm apart along their normal."""
    def positions(step=2.5, n=17, orientation=(1, 0, 0, 0, 1, 0), spacing=(1.0, 1.25), shape=(44, 52)):
        row, column = np.reshape(orientation, (2, 3)).astype(float)
        corner = CENTRE - row * spacing[0] * shape[1] / 2 - column * spacing[1] * shape[0] / 2
        return [corner + np.cross(row, column) * step * (k - (n - 1) / 2) for k in range(n)]
    return positions
