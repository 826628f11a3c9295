"""Whole files or none; bad tables and full disks are one clear error."""
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from shared_data.checkpoints import check_archive
from shared_data.errors import InputError, one_line
from shared_data.files import (clear_partials, fresh_folder, only_run_in, read_table, whole_file, whole_folder,
                               write_json, write_table)


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "case"
    for content in ("one", "two"):
        with whole_folder(target) as partial:
            (partial / "x").write_text(content)
            assert not (target / "x").exists() or (target / "x").read_text() == "one"
    assert (target / "x").read_text() == "two"
    with pytest.raises(RuntimeError), whole_folder(target) as partial:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_leftovers_of_a_kill_are_cleared(tmp_path):
    (tmp_path / ".writing-case" / "files").mkdir(parents=True)
    clear_partials(tmp_path)
    assert not list(tmp_path.iterdir())


def test_tables_come_back_as_written(tmp_path):
    rows = [{"patient": "Ä, 1", "slice": 1}, {"patient": "b\"c", "slice": 2}]
    write_table(tmp_path / "t.csv", rows)
    assert read_table(tmp_path / "t.csv", ["patient"]) == [{k: str(v) for k, v in row.items()} for row in rows]
    with pytest.raises(InputError, match="column path is missing"):
        read_table(tmp_path / "t.csv", ["patient", "path"])
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.csv", [])
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00patient")
    with pytest.raises(InputError):
        read_table(tmp_path / "bad.csv", ["patient"])


SCRIPT = """
import resource, sys
import numpy as np, SimpleITK as sitk
from shared_data.errors import run_script
from shared_data.volume import write_volume
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 255, (50, 50, 50)).astype(np.uint8))
run_script(lambda: write_volume(image, sys.argv[1]))
"""


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, suffix):
    target = tmp_path / f"mask{suffix}"
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(target)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith(f"-c: error: {target}")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("mask")]


def test_errors_of_the_system_are_one_line_with_advice(tmp_path):
    assert one_line(PermissionError(13, "Permission denied", "/x")).startswith("/x: Permission denied. Change its perm")
    assert "space" in one_line(OSError(28, "No space left on device", "/x"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="exists"):
        write_json(tmp_path / "file" / "a.json", {})


def test_json_holds_no_number_that_other_readers_refuse(tmp_path):
    write_json(tmp_path / "a.json", {"dice": float("nan"), "rows": [(1.5, float("inf"))], "path": tmp_path})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "dice": None, "rows": [[1.5, None]], "path": str(tmp_path)}


def test_a_folder_belongs_to_one_run_and_a_killed_one_holds_nothing(tmp_path):
    hold = ("import sys, time\nfrom shared_data.files import only_run_in\n"
            "with only_run_in(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)")
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    refused = pytest.raises(InputError, match=f"{tmp_path}: another run is at work here. Wait for it, or name another")
    with refused, only_run_in(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    (tmp_path / ".writing-x").mkdir()
    for _ in range(2):
        with only_run_in(tmp_path, ""):
            assert not (tmp_path / ".writing-x").exists()
            with pytest.raises(InputError, match="another run"), only_run_in(tmp_path):
                pass


def test_a_demo_empties_no_folder_but_its_own(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    with pytest.raises(InputError, match="mine: not empty. Name a new folder"):
        fresh_folder(tmp_path / "mine", tmp_path / "demo")
    fresh_folder(tmp_path / "mine", tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_an_archive_with_a_flipped_byte_is_told(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, values=np.arange(1000))
    check_archive(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        check_archive(path)
    path.write_bytes(b"no archive")
    check_archive(path)
