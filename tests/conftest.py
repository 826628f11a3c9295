"""Fixtures of all tests."""
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from highdicom.seg import segread

from shared_data.dicom import write_dicom_series
from shared_data.files import read_table
from shared_data.rtstruct import read_rtstruct, write_rtstruct
from shared_data.volume import read_volume, write_volume

sys.path.insert(0, str(Path(__file__).parent / "golden"))  # fill.py


def pytest_collection_modifyitems(items):
    """Tests that fork this process come first: the threads of PyTorch and OpenVINO do not live on in a fork, which then
    waits for them."""
    items.sort(key=lambda item: item.path.name != "test_faults.py")


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
def check_dicom_outputs(tmp_path):
    """(CT, {label: ROI name}, run): predicts by run(DICOM folder, output, *options) -> label map, and compares what
    RTSTRUCT and SEG hold with it; a function."""
    def check(ct, names, run):
        write_dicom_series(sitk.Cast(ct, sitk.sitkInt16), tmp_path / "dicom")
        labels = sitk.GetArrayFromImage(run(tmp_path / "dicom", tmp_path / "labels.nii.gz", "--rtstruct",
                                            str(tmp_path / "rs.dcm"), "--seg", str(tmp_path / "seg.dcm")))
        masks = read_rtstruct(tmp_path / "rs.dcm", read_volume(tmp_path / "dicom"))
        assert set(masks) == {name for label, name in names.items() if (labels == label).any()}
        segments = segread(tmp_path / "seg.dcm").get_volume(combine_segments=True).array
        for number, (label, name) in enumerate(names.items(), 1):
            if name in masks:
                assert np.array_equal(sitk.GetArrayFromImage(masks[name]) > 0, labels == label)
            assert (segments == number).sum() == (labels == label).sum()
        assert (tmp_path / "labels.ctbl").exists() == (len(names) > 1)
    return check


@pytest.fixture
def check_cohort(tmp_path):
    """(run, {case: CT}): predicts them, and a file that is none, by run(folder, folder) -> exit code, and each alone by
    run(CT, output); compares all that was written; gives the rows of cases.csv. A function."""
    def check(run, cts):
        for name, path in cts.items():
            (tmp_path / "cts").mkdir(exist_ok=True)
            write_volume(read_volume(path), tmp_path / "cts" / f"{name}.nii.gz")
        (tmp_path / "cts" / "none.nii.gz").touch()
        assert run(tmp_path / "cts", tmp_path / "out") == 1
        rows = {row["case"]: row for row in read_table(tmp_path / "out" / "cases.csv", ["case", "status", "reason"])}
        assert {name: row["status"] for name, row in rows.items()} == {**dict.fromkeys(cts, "done"), "none": "failed"}
        for name in cts:
            run(tmp_path / "cts" / f"{name}.nii.gz", tmp_path / "alone" / f"{name}.nii.gz")
        alone = {path.name for path in (tmp_path / "alone").iterdir()}
        assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == alone | {"cases.csv", "report.html"}
        for name in alone:
            if name.endswith(".nii.gz"):
                one, other = (sitk.ReadImage(str(tmp_path / folder / name)) for folder in ("alone", "out"))
                assert np.array_equal(sitk.GetArrayViewFromImage(one), sitk.GetArrayViewFromImage(other)), name
        return rows
    return check


@pytest.fixture
def readonly_folder(tmp_path):
    """An empty folder that nobody may write to."""
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)
