"""vert_seg.py around the real TotalSegmentator (which has no weights here) and around a stand-in that obeys its command line."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import SimpleITK as sitk

from retroln_nnunet import vert_seg
from retroln_nnunet.config import VERTEBRAE
from shared_data.errors import InputError
from shared_data.files import read_table

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


@pytest.fixture
def stand_in(raw, tmp_path, monkeypatch):
    """Function: puts the stand-in first on the PATH; returns the file with its command lines."""

    def install(delay=0):
        program = tmp_path / "bin" / "TotalSegmentator"
        program.parent.mkdir(exist_ok=True)
        program.write_text(STAND_IN.format(python=sys.executable, log=tmp_path / "log", delay=delay,
                                           vertebrae=raw / "vertebrae" / "P1"))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "log"

    return install


@pytest.fixture
def cts(raw, tmp_path):
    """Function: a folder with copies of one CT under the given names."""

    def copies(*names):
        (tmp_path / "CT").mkdir(exist_ok=True)
        for name in names:
            shutil.copy(raw / "CT" / "P1_0000.nii.gz", tmp_path / "CT" / f"{name}_0000.nii.gz")
        return tmp_path / "CT"

    return copies


def run(folder, out, *options):
    code = vert_seg.main(["--input_dir", str(folder), "--output_dir", str(out), *options])
    return code, {row["case"]: row["status"] for row in read_table(out / "summary.csv", [])}


def test_one_file_per_vertebra_and_finished_cases_are_skipped(stand_in, cts, tmp_path):
    log, folder = stand_in(), cts("5", "539")
    assert run(folder, tmp_path / "v") == (0, {"5": "success", "539": "success"})
    assert {path.name for path in (tmp_path / "v" / "5").iterdir()} == {f"vertebrae_{name}.nii.gz" for name in VERTEBRAE}
    words = log.read_text().splitlines()[0].split()
    assert "--ml" not in words and words[words.index("--roi_subset") + 1:] == [f"vertebrae_{name}" for name in VERTEBRAE]
    assert run(folder, tmp_path / "v") == (0, {"5": "skipped", "539": "skipped"})
    assert len(log.read_text().splitlines()) == 2


def test_statuses_reasons_and_exit_code(stand_in, cts, raw, tmp_path, capsys):
    stand_in()
    folder = cts("good", "memory", "gpu", "other", "incomplete", "corrupted", "cut", "thin")
    (folder / "cut_0000.nii.gz").write_bytes((raw / "CT" / "P1_0000.nii.gz").read_bytes()[:900])
    sitk.WriteImage(sitk.ReadImage(str(raw / "CT" / "P1_0000.nii.gz"))[:, :, :6], str(folder / "thin_0000.nii.gz"))
    code, statuses = run(folder, tmp_path / "v", "--num_processes", "2", "--fast", "--device", "cpu")
    assert code == 1 and statuses == {"good": "success", "memory": "failed", "gpu": "failed", "other": "failed",
                                      "incomplete": "incomplete", "corrupted": "corrupted", "cut": "corrupted",
                                      "thin": "corrupted"}
    shown = capsys.readouterr()
    for words in ("out of GPU memory. Add --fast, or --device cpu", "Add --device cpu", "ValueError: something odd",
                  "vertebrae_L4.nii.gz missing", "at least 10 voxels", "cut short"):
        assert words in shown.err
    assert "success 1  skipped 0  failed 3  corrupted 3  incomplete 1" in shown.out
    assert not (tmp_path / "v" / "memory").exists() and not (tmp_path / "v" / "corrupted").exists()


def test_batch_size_takes_the_first_cts(stand_in, cts, tmp_path):
    stand_in()
    assert run(cts("2", "10", "1"), tmp_path / "v", "--batch_size", "2")[1] == {"1": "success", "2": "success"}


def test_killed_and_run_again(stand_in, cts, tmp_path):
    stand_in(delay=0.5)
    command = [sys.executable, "-m", "retroln_nnunet.vert_seg", "--input_dir", str(cts("1", "2", "3")), "--output_dir",
               str(tmp_path / "v")]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "v" / "1").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "v" / "3").exists()
    code, statuses = run(tmp_path / "CT", tmp_path / "v")
    assert code == 0 and statuses["1"] == "skipped" and statuses["3"] == "success"
    assert not list((tmp_path / "v").glob(".writing-*"))


@pytest.mark.skipif((Path.home() / ".totalsegmentator" / "nnunet" / "results").exists(), reason="its weights are here")
def test_the_real_totalsegmentator_without_weights_is_one_sentence(cts, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # no download, whatever the network
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    code, statuses = run(cts("1"), tmp_path / "v", "--device", "cpu")
    assert code == 1 and statuses == {"1": "failed"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed")]
    assert len(lines) == 1 and "its weights are not on this machine and could not be downloaded" in lines[0]


def test_what_cannot_be_used_is_refused(tmp_path, cts, monkeypatch):
    with pytest.raises(InputError, match="no file fits '\\*.mha'"):
        run(cts("1"), tmp_path / "v", "--file_pattern", "*.mha")
    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "absent", tmp_path / "v")
    monkeypatch.setattr(vert_seg.shutil, "which", lambda *_, **__: None)
    with pytest.raises(InputError, match="TotalSegmentator is not installed"):
        run(cts("1"), tmp_path / "v")
