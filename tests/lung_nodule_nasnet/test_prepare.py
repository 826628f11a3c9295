"""Scans to slices to table to split; stopped anywhere it goes on, and bad input is named."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import tables

from lung_nodule_nasnet import preprocess, slice_idx, table
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.slice_idx import read_split, split_slices
from lung_nodule_nasnet.table import open_slices, read_columns
from shared_data.errors import InputError
from shared_data.files import read_table

rows = partial(read_table, columns=[])


def options(raw, out, *more):
    return ["--data-dir", str(raw), "--prepared-dir", str(out), "--size", "64", "--workers", "0", *more]


@pytest.mark.parametrize("kind", ["xml", "list"])
def test_lidc_by_read_outs_and_by_the_list(raw, tmp_path, kind):
    assert preprocess.main(options(raw, tmp_path, "--annotations", kind)) == 0
    nodules, scans = rows(tmp_path / "nodules.csv"), rows(tmp_path / "scans.csv")
    assert len(scans) == 3 and len(nodules) == len(rows(raw / "list3.2.csv"))
    assert sum(int(row["nodules"]) for row in scans) == len(nodules)
    assert all(int(row["with_nodule"]) > 0 and int(row["slices"]) >= int(row["with_nodule"]) for row in scans)


def test_luna16(luna, tmp_path):
    assert preprocess.main(options(luna, tmp_path)) == 0
    prepared = {row["seriesuid"]: row for row in rows(tmp_path / "nodules.csv")}
    for row in rows(luna / "annotations.csv"):
        assert row["seriesuid"] in prepared


def test_a_second_run_makes_nothing_anew_and_other_settings_are_refused(raw, tmp_path, monkeypatch):
    preprocess.main(options(raw, tmp_path))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("slices.npz")}
    preprocess.main(options(raw, tmp_path))
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("slices.npz")}
    with pytest.raises(InputError, match="size 64 .now 80."):
        preprocess.main([*options(raw, tmp_path), "--size", "80"])
    with monkeypatch.context() as edited, pytest.raises(InputError, match="CROP 57 457 .now 60 460."):
        edited.setattr(preprocess, "CONSTANTS", {**preprocess.CONSTANTS, "CROP": (60, 460)})
        preprocess.main(options(raw, tmp_path))
    damaged = next(tmp_path.rglob("case.json"))
    damaged.write_text("{}")
    preprocess.main(options(raw, tmp_path))
    assert json.loads(damaged.read_text())["slices"]


def test_a_bad_scan_is_named_and_the_others_are_done(raw, tmp_path, capsys):
    shutil.copytree(raw, tmp_path / "Löcher und Lücken")
    cohort = tmp_path / "Löcher und Lücken"
    (cohort / "LIDC-IDRI-0001" / "study" / "series" / "0003.dcm").unlink()
    next((cohort / "LIDC-IDRI-0002").rglob("*.xml")).unlink()
    assert preprocess.main(options(cohort, tmp_path / "out")) == 1
    told = capsys.readouterr().err
    assert "LIDC-IDRI-0001" in told and "slices are missing" in told and "no read-out for series" in told
    assert len(rows(tmp_path / "out" / "scans.csv")) == 1


def test_a_read_out_of_another_series_is_not_used(raw, tmp_path, capsys):
    shutil.copytree(raw, tmp_path / "raw")
    first, second = (next((tmp_path / "raw" / f"LIDC-IDRI-000{n}").rglob("*.xml")) for n in (1, 2))
    shutil.copy(second, first)
    assert preprocess.main(options(tmp_path / "raw", tmp_path / "out")) == 1
    assert "readings.xml beside it belongs to another" in capsys.readouterr().err


@pytest.mark.parametrize("prepare, message", [
    (lambda folder: None, "no such folder"),
    (lambda folder: folder.mkdir(), "neither CT slices"),
    (lambda folder: (folder.mkdir(), (folder / "a.mhd").write_text("hello")), "no such file|not a readable|no case"),
])
def test_no_cohort(tmp_path, prepare, message):
    prepare(tmp_path / "raw")
    with pytest.raises(InputError, match=message):
        preprocess.main(options(tmp_path / "raw", tmp_path / "out"))


def test_a_cohort_without_any_nodule(raw, tmp_path):
    shutil.copytree(raw, tmp_path / "raw")
    for xml in (tmp_path / "raw").rglob("*.xml"):
        head = xml.read_text().split("<readingSession>")[0]
        xml.write_text(head + "</LidcReadMessage>")
    with pytest.raises(InputError, match="not one slice with a nodule"):
        preprocess.main(options(tmp_path / "raw", tmp_path / "out"))


def test_a_scan_of_which_no_slice_is_used_is_named_and_left_out(raw, tmp_path, capsys):
    shutil.copytree(raw, tmp_path / "raw")
    xml = next((tmp_path / "raw" / "LIDC-IDRI-0001").rglob("*.xml"))
    xml.write_text(xml.read_text().split("<readingSession>")[0] + "</LidcReadMessage>")
    assert preprocess.main(options(tmp_path / "raw", tmp_path / "out", "--min-negatives", "0")) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "no slice to use: none with a nodule, and 0 of the 10 surely without" in told[0]
    assert len(rows(tmp_path / "out" / "scans.csv")) == 2


def test_prepared_and_raw_lie_apart(raw):
    with pytest.raises(InputError, match="must lie apart"):
        preprocess.main(options(raw, raw / "prepared"))


def test_the_table_holds_what_was_prepared(prepared):
    columns = read_columns(prepared / "table.h5")
    scans = rows(prepared / "scans.csv")
    assert len(columns["series_uids"]) == sum(int(row["slices"]) for row in scans)
    assert int(columns["has_nodule"].sum()) == sum(int(row["with_nodule"]) for row in scans)
    with open_slices(prepared / "table.h5") as slices:
        assert slices.root.data.chunkshape == (1, 64, 64) and slices.root.data.filters.complib == "blosc"
        images, masks = preprocess.read_slices_of(prepared / scans[0]["seriesuid"])
        assert np.array_equal(slices.root.data[:len(images)], images)
        assert np.array_equal(slices.root.truth[:len(images)], masks)


def test_a_table_cut_short_is_recognised(prepared, tmp_path):
    whole = (prepared / "table.h5").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 200):
        (tmp_path / "table.h5").write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged or cut short|not a whole table"):
            open_slices(tmp_path / "table.h5")
    with tables.open_file(str(tmp_path / "table.h5"), "w"):
        pass
    with pytest.raises(InputError, match="not a whole table"):
        open_slices(tmp_path / "table.h5")
    with pytest.raises(InputError, match="no such table"):
        open_slices(tmp_path / "other.h5")


@pytest.mark.parametrize("script, done", [("preprocess", "*/case.json"), ("table", ".writing-*")])
def test_killed_and_run_again(raw, prepared, tmp_path, script, done):
    out = tmp_path / "out"
    if script == "table":
        shutil.copytree(prepared, out)
        (out / "table.h5").unlink()
    given = options(raw, out) if script == "preprocess" else ["--prepared-dir", str(out)]
    command = [sys.executable, "-m", f"lung_nodule_nasnet.{script}", *given]
    killed = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob(done)) and killed.poll() is None:
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    module = {"preprocess": preprocess, "table": table}[script]
    assert not module.main(given)
    table.main(["--prepared-dir", str(out)])
    assert not list(out.glob(".writing-*"))
    with open_slices(out / "table.h5") as one, open_slices(prepared / "table.h5") as other:
        assert np.array_equal(one.root.data[:], other.root.data[:])
        assert np.array_equal(one.root.truth[:], other.root.truth[:])


def test_no_patient_is_on_both_sides_unless_asked(prepared):
    columns = read_columns(prepared / "table.h5")
    split = read_split(prepared, len(columns["series_uids"]))
    sides = [{columns["subject_ids"][i] for i in split[part]} for part in ("train", "validation")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 3
    by_slice = split_slices(columns, set(), Config(split="slice"), "table")
    sides = [{columns["subject_ids"][i] for i in by_slice[part]} for part in ("train", "validation")]
    assert sides[0] & sides[1]
    assert len(by_slice["validation"]) == round(0.2 * len(columns["series_uids"]))


def test_tested_scans_are_left_out(prepared, tmp_path):
    copy = tmp_path / "prepared"
    shutil.copytree(prepared, copy)
    uid = rows(prepared / "scans.csv")[0]["seriesuid"]
    (tmp_path / "luna.csv").write_text(f"seriesuid\n{uid}\n1.2.3\n")
    slice_idx.main(["--prepared-dir", str(copy), "--leave-out", str(tmp_path / "luna.csv")])
    columns, split = read_columns(copy / "table.h5"), json.loads((copy / "slice_idx.json").read_text())
    assert split["left_out"] == [uid]
    assert uid not in {columns["series_uids"][i] for i in split["train"] + split["validation"]}


def test_splits_that_cannot_be(prepared, tmp_path):
    columns = read_columns(prepared / "table.h5")
    with pytest.raises(InputError, match="1 patient to split"):
        split_slices({**columns, "subject_ids": ["A"] * len(columns["subject_ids"])}, set(), Config(), "table")
    with pytest.raises(InputError, match="slice holds a nodule"):
        split_slices({**columns, "has_nodule": np.zeros(len(columns["has_nodule"]), bool)}, set(), Config(), "table")
    with pytest.raises(InputError, match="Run slice_idx.py"):
        read_split(tmp_path, 3)
    (tmp_path / "slice_idx.json").write_text('{"train": [0], "validation": [0], "n_slices": 3}')
    with pytest.raises(InputError, match="damaged, or of another table"):
        read_split(tmp_path, 3)


@pytest.mark.parametrize("script, option, owner", [
    (preprocess, "--lr", "train.py"), (preprocess, "--split-seed", "slice_idx.py"), (table, "--size", "preprocess.py"),
    (table, "--workers", "preprocess.py and train.py"), (slice_idx, "--seed", "preprocess.py and train.py")])
def test_what_a_step_does_not_read_is_refused(tmp_path, script, option, owner):
    with pytest.raises(InputError, match=f"unknown option {option} .a setting of {owner}.. Valid: --help"):
        script.main(["--prepared-dir", str(tmp_path), option, "1"])


def test_a_bad_setting_is_one_line(raw, tmp_path):
    done = subprocess.run([sys.executable, "-m", "lung_nodule_nasnet.preprocess", *options(raw, tmp_path),
                           "--mask_rule", "magic"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "edge" in done.stderr
