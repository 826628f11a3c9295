"""Fixtures of all tests."""
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.rtstruct import write_rtstruct

sys.path.insert(0, str(Path(__file__).parent / "golden"))  # fill.py


@pytest.fixture(scope="session")
def golden():
    """The folder with the reference values."""
    return Path(__file__).parent / "golden"


@pytest.fixture
def ct():
    """A small CT with uneven spacing and an origin off zero; every voxel differs from its neighbours."""
    array = np.random.default_rng(0).integers(-1000, 1000, (6, 20, 24)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.75, 0.5, 2.5))
    image.SetOrigin((-20.0, 30.0, 100.0))
    return image


@pytest.fixture(scope="session")
def dicom_case():
    """(CT, labels, {label: ROI name}, folder): writes them there as a DICOM series and its RTSTRUCT; a function."""
    def write(ct, labels, names, folder):
        write_dicom_series(sitk.Cast(ct, sitk.sitkInt16), folder / "series")
        files = list((folder / "series").iterdir())
        write_rtstruct(labels, names, files, folder / "structures.dcm")
    return write


@pytest.fixture
def readonly_folder(tmp_path):
    """An empty folder that nobody may write to."""
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)
