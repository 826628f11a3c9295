"""A small phantom cohort, prepared and trained for two epochs, once for all tests of SepNet."""
import os

import pytest
import torch

from sepnet import preprocess, train
from shared_data.phantoms import write_structseg_cohort

torch.set_num_threads(1)  # tensors this small gain nothing from more
os.environ["OMP_NUM_THREADS"] = "1"
SMALL = ["--crop-size", "48", "--workers", "0"]


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_structseg_cohort(folder, patients=4, size=48, slices=18)
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert preprocess.main(["--data-dir", str(raw), "--prepared-dir", str(folder), *SMALL, "--plain-window"]) == 0
    return folder


@pytest.fixture(scope="session")
def training(prepared):
    """Options of train.py for a run of seconds."""
    return ["--prepared-dir", str(prepared), "--workers", "0", "--patch-zyx", "16", "16", "16", "--batch-size", "2",
            "--base-channels", "2", "--epochs", "2", "--steps-per-epoch", "3", "--device", "cpu", "--augment"]


@pytest.fixture(scope="session")
def runs(training, tmp_path_factory):
    """A folder with the run folders of two members."""
    folder = tmp_path_factory.mktemp("ensemble")
    for name, options in (("one", []), ("two", ["--transform", "multi_thresh_2", "--alpha", "1", "--seed", "7"])):
        train.main([*training, *options, "--run-dir", str(folder / name)])
    return folder
