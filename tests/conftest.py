"""Fixtures of all tests."""
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

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


# Runs a module as a script where no file may grow beyond so many bytes.
LIMITED = """
import resource, runpy, sys
limit, module = int(sys.argv.pop(1)), sys.argv.pop(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run_on_full_disk():
    """f(module, *options, limit=bytes): the script's outcome where files beyond `limit` do not fit."""
    def run(module, *options, limit=20_000):
        return subprocess.run([sys.executable, "-c", LIMITED, str(limit), module, *map(str, options)],
                              capture_output=True, text=True)
    return run


@pytest.fixture
def run_without_rights():
    """f(module, *options): the script's outcome where the rights of files count, for root too."""
    def run(module, *options):
        return subprocess.run([sys.executable, "-m", module, *map(str, options)], capture_output=True, text=True,
                              preexec_fn=_heed_rights if os.geteuid() == 0 else None)
    return run


def _heed_rights():
    """Drop what lets root read and write everything (Linux: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.fixture
def readonly_folder(tmp_path):
    """An empty folder that nobody may write to."""
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o555)
    yield folder
    folder.chmod(0o755)
