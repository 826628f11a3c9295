"""A small phantom cohort, cropped, and trained for two epochs, once for all tests of RetroLN-nnUNet."""
import os
import sys
from pathlib import Path

import pytest

from retroln_nnunet import crop, train
from retroln_nnunet.config import Config
from shared_data.phantoms_abdomen import write_abdomen_cohort
from tests.faults.projects import draw_few_voxels

draw_few_voxels()

# Copies the phantom's vertebrae; the name of the CT says what goes wrong.
STAND_IN = """#!{python}
import argparse, pathlib, shutil, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("-i", type=pathlib.Path)
parser.add_argument("-o", type=pathlib.Path)
parser.add_argument("--roi_subset", nargs="+")
parser.add_argument("--device", choices=["gpu", "cpu"])
parser.add_argument("--fast", action="store_true")
given = parser.parse_args()
pathlib.Path("{log}").open("a").write(" ".join(sys.argv[1:]) + "\\n")
name = given.i.name.split("_")[0]
messages = {{"memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
            "gpu": "RuntimeError: Found no NVIDIA driver on your system", "other": "ValueError: something odd"}}
if name in messages:
    sys.exit("Traceback\\n" + messages[name])
time.sleep({delay})
given.o.mkdir(exist_ok=True)
for roi in given.roi_subset:
    shutil.copy(pathlib.Path("{vertebrae}") / (roi + ".nii.gz"), given.o)
if name == "incomplete":
    (given.o / "vertebrae_L4.nii.gz").unlink()
if name == "corrupted":
    (given.o / "vertebrae_L4.nii.gz").write_bytes(b"half")
"""


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
    return ["--prepared-dir", str(processed), "--nnunet-dir", str(tmp_path_factory.mktemp("nnunet"))]


@pytest.fixture(scope="session")
def training():
    """Options of train.py for a run of seconds."""
    return ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "8", "6.5", "6.5", "--base-features", "4", "--epochs",
            "2", "--steps-per-epoch", "2", "--val-steps", "1", "--num-processes", "0", "--device", "cpu"]


@pytest.fixture(scope="session")
def trained(folders, training):
    """The nnU-Net folder of a finished run."""
    assert train.main([*folders, *training]) == 0
    return Path(folders[3])


@pytest.fixture(scope="session")
def checkpoint(trained):
    return train.model_dir(Config(nnunet_dir=trained)) / "fold_0" / "checkpoint_final.pth"


@pytest.fixture
def stand_in(raw, tmp_path, monkeypatch):
    """Function: puts the stand-in first on the PATH, with the vertebrae of a case; returns the file of its commands."""

    def install(delay=0, case="P1"):
        program = tmp_path / "bin" / "TotalSegmentator"
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN.format(python=sys.executable, log=tmp_path / "log", delay=delay,
                                           vertebrae=raw / "vertebrae" / case))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "log"

    return install
