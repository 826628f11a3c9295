"""A small phantom cohort, prepared, and the whole chain trained for two epochs, once for all tests of FocusNet."""
import itertools
import json
import os

import pytest
import torch
from fill import fill_entries

from focusnet_v2 import train
from focusnet_v2.data_preprocess import crop_data, data_preprocess
from shared_data.phantoms import write_pddca_cohort
from shared_data.settings import names_of

torch.set_num_threads(1)  # tensors this small gain nothing from more
os.environ["OMP_NUM_THREADS"] = "1"
SPACING = ["--spacing-xyz", "4", "4", "5", "--workers", "0"]
PATCH = ["--patch-zyx", "8", "32", "32"]
CROP = [*PATCH, "--crop-side", "40", "--crop-anterior", "12", "--crop-below", "14", "--crop-above", "7", "--workers",
        "0"]
TINY = [*PATCH, "--min-slices", "12", "--box-zyx", "8", "16", "16", "--window-step", "6", "--width", "8",
        "--ae-width", "8", "--code-length", "16", "--backbone-epochs", "2", "--sol-epochs", "2",
        "--joint-epochs", "2", "--ae-epochs", "2", "--adv-epochs", "2", "--device", "cpu"]


def prepare_both(raw, out, *options):
    """Both steps, the options those of whichever reads them; the larger exit code."""
    crop = options if options and options[0].startswith("--crop") else ()
    prepared = ["--prepared-dir", str(out)]
    return max(data_preprocess.main(["--data-dir", str(raw), *prepared, *SPACING, *(() if crop else options)]),
               crop_data.main([*prepared, *CROP, *crop]))


@pytest.fixture(scope="session")
def prepare():
    """The function that prepares a cohort."""
    return prepare_both


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    write_pddca_cohort(folder, patients=5, size=48, slices=20)
    return folder


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert prepare_both(raw, folder) == 0
    return folder


@pytest.fixture(scope="session")
def training(prepared):
    """Options of every stage for a run of seconds."""
    return ["--prepared-dir", str(prepared), *TINY]


@pytest.fixture(scope="session")
def of_stage():
    """Function of a stage and a command line of train.py: the part of it that the stage's own script takes."""
    def part(stage, words):
        options = itertools.accumulate(words, lambda option, word: word if word.startswith("--") else option)
        return [word for word, option in zip(words, options)
                if option.removeprefix("--").replace("-", "_") in names_of(stage.options)]
    return part


@pytest.fixture(scope="session")
def run_dir(training, tmp_path_factory):
    """The run folder of a finished chain."""
    folder = tmp_path_factory.mktemp("run")
    train.main([*training, "--run-dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def filled_state(golden):
    """name -> the authors' state dict with the weights of the golden files."""
    def state(name):
        entries = [(key, shape) for key, shape, *_ in json.loads((golden / f"{name}.json").read_text())["state"]]
        values = fill_entries(entries, 20240)
        return {key: torch.from_numpy(values[key]) if key in values else torch.tensor(0) for key, _ in entries}
    return state


@pytest.fixture(scope="session")
def whole_state(filled_state):
    """number of branches -> a state dict of the whole network, its parts under names of our invention."""
    def state(n_branches=3):
        parts = {"module.s_net.": "focusnet_snet3d", "module.heat.": "focusnet_heatmap",
                 **{f"module.sos_{i}.": "focusnet_sos_branch" for i in range(n_branches)}}
        return {prefix + key: value for prefix, name in parts.items() for key, value in filled_state(name).items()}
    return state
