"""A small phantom cohort, prepared and trained for two epochs, once for all tests of S-Net."""
import pytest

from shared_data.phantoms import write_neck_cohort
from snet_neck_ln import train
from snet_neck_ln.process_data import data_parser, data_process_lymph_node


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_neck_cohort(folder, patients=5, size=40, slices=5)
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert data_process_lymph_node.main(
        ["--data-dir", str(raw), "--prepared-dir", str(folder), "--workers", "0"]) == 0
    data_parser.main(["--prepared-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def training(prepared):
    """Options of train.py for a run of seconds."""
    return ["--prepared-dir", str(prepared), "--size", "32", "--batch-size", "4", "--lr", "1e-3", "--workers", "0",
            "--device", "cpu", "--epochs", "2"]


@pytest.fixture(scope="session")
def run_dir(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.main([*training, "--run-dir", str(folder)])
    return folder
