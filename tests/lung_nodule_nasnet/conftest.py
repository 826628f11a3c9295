"""A small phantom cohort in LIDC-IDRI's layout, prepared and trained for two epochs, once for all tests."""
import pytest

from lung_nodule_nasnet import preprocess, quiet, slice_idx, table, train  # noqa: F401  quiet: before keras
from lung_nodule_nasnet.devices import tf
from shared_data.phantoms_chest import write_lidc_cohort, write_luna_cohort

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # not worth it for graphs run few times
TINY = ["--encoder-filters", "96", "--encoder-blocks", "2", "--decoder-width", "0.05", "--bn-momentum", "0.8"]


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lidc")
    write_lidc_cohort(folder, patients=3, size=64, slices=10)
    return folder


@pytest.fixture(scope="session")
def luna(tmp_path_factory):
    folder = tmp_path_factory.mktemp("luna16")
    write_luna_cohort(folder, patients=2, seed=1, size=64, slices=10)
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepared = ["--prepared-dir", str(folder)]
    assert not preprocess.main([*prepared, "--data-dir", str(raw), "--size", "64", "--workers", "0"])
    table.main(prepared)
    slice_idx.main(prepared)
    return folder


@pytest.fixture(scope="session")
def training(prepared):
    """Options of train.py for a run of seconds."""
    return ["--prepared-dir", str(prepared), "--batch-size", "9", "--workers", "0", "--device", "cpu",
            "--epochs", "2", "--no-compiled", *TINY]


@pytest.fixture(scope="session")
def run_dir(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train.main([*training, "--run-dir", str(folder)])
    return folder
