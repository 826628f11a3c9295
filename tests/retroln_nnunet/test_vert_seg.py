"""vert_seg.py around the real TotalSegmentator (without weights), and around a stand-in that obeys its command line."""
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import SimpleITK as sitk

from retroln_nnunet import vert_seg
from retroln_nnunet.config import VERTEBRAE
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_table
from shared_data.volume import write_volume

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
    names = [f"vertebrae_{name}" for name in VERTEBRAE]
    assert {path.name for path in (tmp_path / "v" / "5").iterdir()} == {f"{name}.nii.gz" for name in names}
    words = log.read_text().splitlines()[0].split()
    assert "--ml" not in words and words[words.index("--roi_subset") + 1:] == names
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


def test_what_was_not_finished_is_made_again(stand_in, cts, tmp_path):
    stand_in()
    folder = cts("good", "incomplete", "corrupted", "memory")
    run(folder, tmp_path / "v")
    (tmp_path / "v" / "good" / "vertebrae_L1.nii.gz").write_bytes(b"half")
    for name, other in (("incomplete", "whole"), ("corrupted", "sound"), ("memory", "fitting")):
        (folder / f"{name}_0000.nii.gz").rename(folder / f"{other}_0000.nii.gz")
        if (tmp_path / "v" / name).exists():
            (tmp_path / "v" / name).rename(tmp_path / "v" / other)
    code, statuses = run(folder, tmp_path / "v")
    assert code == 0 and set(statuses.values()) == {"success"} and len(statuses) == 4
    assert run(folder, tmp_path / "v") == (0, dict.fromkeys(statuses, "skipped"))


@pytest.mark.parametrize("processes", ["1", "2"])
def test_killed_and_run_again(stand_in, cts, tmp_path, processes):
    stand_in(delay=0.4)
    command = [sys.executable, "-m", "retroln_nnunet.vert_seg", "--input_dir", str(cts("1", "2", "3")), "--output_dir",
               str(tmp_path / "v"), "--num_processes", processes]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "v" / "1").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "v" / "3").exists() and not (tmp_path / "v" / "summary.csv").exists()
    stand_in()
    code, statuses = run(tmp_path / "CT", tmp_path / "v")
    assert code == 0 and statuses["1"] == "skipped" and statuses["3"] == "success"
    assert not list((tmp_path / "v").glob(".writing-*"))


def test_interrupted_it_starts_no_more(stand_in, cts, tmp_path):
    log = stand_in(delay=1)
    command = [sys.executable, "-m", "retroln_nnunet.vert_seg", "--input_dir", str(cts("1", "2", "3", "4")),
               "--output_dir", str(tmp_path / "v")]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs are deaf to it
    stopped = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               preexec_fn=heed)
    while not log.exists():
        time.sleep(0.02)
    os.killpg(stopped.pid, signal.SIGINT)  # Ctrl-C reaches the whole group
    error = stopped.communicate()[1].decode()
    assert stopped.returncode == 130 and "the same command continues" in error and "Traceback" not in error
    assert len(log.read_text().splitlines()) == 1


def test_other_formats_reach_totalsegmentator_as_nifti(stand_in, cts, raw, tmp_path):
    log = stand_in()
    ct = sitk.ReadImage(str(raw / "CT" / "P1_0000.nii.gz"))
    write_volume(ct, tmp_path / "CT" / "a.nrrd")
    write_dicom_series(ct, tmp_path / "CT" / "b ä")
    code, statuses = run(tmp_path / "CT", tmp_path / "v", "--file_pattern", "*")
    assert code == 0 and statuses == {"a": "success", "b ä": "success"}
    assert all("ct.nii.gz" in line for line in log.read_text().splitlines())
    assert not (tmp_path / "v" / "a" / "ct.nii.gz").exists()


def test_a_folder_named_by_its_way_up_is_not_written_over(tmp_path):
    (tmp_path / "ct" / "slices").mkdir(parents=True)
    options = vert_seg.Options(input_dir=tmp_path / "ct", output_dir=tmp_path / "v")
    assert vert_seg.segment(tmp_path / "ct" / "slices" / "..", "absent", options) == (
        "failed", f"{tmp_path}/ct/slices: '..': a case of this name cannot be prepared. Rename it.")


def test_odd_names_locks_and_folders_within_each_other(stand_in, cts, raw, tmp_path, capsys):
    stand_in()
    folder = cts("line\nbreak", "byte\udcff", "n" * 190, "summary.csv", "")
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "mine.txt").touch()
    code, statuses = run(folder, tmp_path / "v")
    assert code == 1 and list(statuses.values()).count("success") == 1 and (tmp_path / "v" / "mine.txt").exists()
    assert capsys.readouterr().err.count("cannot be prepared. Rename it.") == 4
    with pytest.raises(InputError, match="must lie apart"):
        run(folder, folder / "v")
    with only_run_in(tmp_path / "v"), pytest.raises(InputError, match="another run is at work here"):
        run(folder, tmp_path / "v")


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
