"""A small phantom cohort, cropped, and trained for two epochs, once for all tests of RetroLN-nnUNet."""
import pytest

from retroln_nnunet import crop
from shared_data.phantoms_abdomen import write_abdomen_cohort


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_abdomen_cohort(folder, patients=4, size=40, slices=30)
    return folder


@pytest.fixture(scope="session")
def processed(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processed")
    assert crop.main(["--data-dir", str(raw), "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def folders(processed, tmp_path_factory):
    return ["--processed-dir", str(processed), "--nnunet-dir", str(tmp_path_factory.mktemp("nnunet"))]


@pytest.fixture(scope="session")
def training():
    """Options of train.py for a run of seconds."""
    return ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "8", "6.5", "6.5", "--base-features", "4", "--epochs", "2",
            "--iterations", "2", "--val-iterations", "1", "--save-every", "1", "--num-processes", "1", "--device", "cpu"]


@pytest.fixture(scope="session")
def trained(folders, training):
    """The nnU-Net folder of a finished run."""
    from pathlib import Path

    from retroln_nnunet import train
    assert train.main([*folders, *training]) == 0
    return Path(folders[3])
