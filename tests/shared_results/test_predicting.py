"""A cohort in one run: every CT found has a row, a bad one stops no other, a killed run goes on, masks are the same."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from distributed import LocalCluster

from shared_data.ct_cases import find_cases
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError, one_line
from shared_data.files import only_run_in, read_json, read_table, write_json
from shared_data.volume import read_volume, write_volume
from shared_results import predicting
from tests.threshold import LOADED, main

@pytest.fixture
def run(tmp_path):
    """(input, *options) -> (exit code, {case: row}); the results lie in `out`."""
    write_json(tmp_path / "network.json", {"above": 100})
    LOADED.clear()

    def started(source, *options):
        code = main(["--input", str(source), "--output", str(tmp_path / "out"), "--checkpoint",
                     str(tmp_path / "network.json"), *map(str, options)])
        rows = read_table(tmp_path / "out" / "cases.csv", ["case", "status", "reason", "voxels", "seconds", "warnings"])
        return code, {row["case"]: row for row in rows}
    return started


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cts").mkdir()
    return tmp_path / "cts"


def other(ct, seed):
    array = np.random.default_rng(seed).integers(-1000, 1000, ct.GetSize()[::-1]).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(ct)
    return image


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_files_series_at_any_depth_and_two_in_one_folder_are_found(ct, folder, run):
    write_volume(ct, folder / "P1.nii.gz")
    write_volume(other(ct, 1), folder / "P2.mhd")
    write_dicom_series(other(ct, 2), folder / "a" / "b" / "c")
    write_dicom_series(other(ct, 3), folder / "two")
    for file in (folder / "two").iterdir():
        file.rename(file.with_name(f"first {file.stem}"))  # series are known by their tags
    write_dicom_series(other(ct, 4), folder / "two")
    write_dicom_series(ct, folder / "MR", modality="MR")
    (folder / ".hidden.nii.gz").write_bytes(b"")
    (folder / "notes.txt").write_text("not a CT")
    code, rows = run(folder)
    assert code == 0 and len(LOADED) == 1
    assert {"P1", "P2", "a_b_c"} < set(rows) and len(rows) == 5
    assert all(name.startswith("two_series_") for name in set(rows) - {"P1", "P2", "a_b_c"})
    assert {row["status"] for row in rows.values()} == {"done"}
    out = folder.parent / "out"
    for name, image in (("P1", ct), ("P2", other(ct, 1)), ("a_b_c", other(ct, 2))):
        mask = read_volume(out / f"{name}.nii.gz")
        assert np.array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(image) >= 100)
        assert mask.GetOrigin() == pytest.approx(image.GetOrigin())
        assert int(rows[name]["voxels"]) == sitk.GetArrayFromImage(mask).sum()
        seconds = read_json(out / f"{name}.json")["seconds"]
        assert list(seconds) == ["read", "prepare", "network", "finish", "write", "total"] and seconds["write"] > 0
        assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.01)
        assert float(rows[name]["seconds"]) >= seconds["total"] and (out / f"{name}_overlay.png").exists()
    assert sorted(sitk.GetArrayFromImage(read_volume(out / f"{name}.nii.gz")).sum() for name in rows if "two" in name) \
        == sorted((sitk.GetArrayFromImage(other(ct, seed)) >= 100).sum() for seed in (3, 4))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "a_b_c to two_series" in page and page.count("data:image/png") == 1


def test_bad_cases_are_named_and_the_others_finish(ct, folder, run, capsys):
    write_volume(ct, folder / "good.nrrd")
    write_volume(other(ct, 1), folder / "last.nii")
    (folder / "empty.nii.gz").touch()
    shutil.copy(folder / "last.nii", folder / "cut.nii")
    (folder / "cut.nii").write_bytes((folder / "cut.nii").read_bytes()[:2000])
    (folder / "gone.nii.gz").symlink_to(folder / "nowhere")
    sitk.WriteImage(ct * 0 + 1234, str(folder / "const.mha"))
    write_volume(ct > 0, folder / "mask.nrrd")
    odd = other(ct, 2)
    odd[0, 0, 0] = 1234
    write_volume(odd, folder / "odd.mha")
    write_dicom_series(ct, folder / "series")
    (folder / "series" / "0003.dcm").write_text("not DICOM")
    (folder / "alone").mkdir()
    (folder / "alone" / "1.dcm").write_text("not DICOM")
    code, rows = run(folder)
    assert code == 1
    assert {name for name, row in rows.items() if row["status"] == "done"} == {"good", "last", "mask"}
    assert "a mask among the CTs?" in rows["mask"]["warnings"] and rows["good"]["warnings"] == ""
    for name, reason in (("empty", "the file is empty"), ("cut", "cut short"), ("gone", "no such file"),
                         ("const", "every voxel is 1234"), ("series", "0003.dcm: damaged"), ("alone", "1.dcm: damaged"),
                         ("odd", "a fault of the program, see the traceback: ZeroDivisionError: a case that the")):
        assert rows[name]["status"] == "failed" and reason in rows[name]["reason"], name
        assert not (folder.parent / "out" / f"{name}.nii.gz").exists()
    captured = capsys.readouterr()
    assert captured.err.count("skipped ") == 7 and "3 of 10 CTs segmented" in captured.out
    assert captured.err.count("Traceback") == 1 and "in segment\n    raise ZeroDivisionError" in captured.err


def test_names_that_collide_or_cannot_be_printed_are_told_apart(ct, folder, run):
    names = ["a/ct.nii.gz", "b/ct.nii.gz", "a_b/c.nrrd", "a/b_c.nrrd", "x.nrrd", "x.mha", "line\nend.nrrd",
             "Ä b%.nrrd", "y.nrrd", "y_uncertainty.nrrd", "n" * 200 + ".nrrd",
             b"bytes \xff.nrrd".decode(errors="surrogateescape")]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        plain = folder.parent / f"plain{''.join(Path(name).suffixes[-2:])}"
        write_volume(other(ct, seed), plain)
        plain.rename(folder / name)
    code, rows = run(folder)
    assert len(rows) == len(names) and {"a_ct", "b_ct"} < set(rows)
    assert all(name.isprintable() and "%" not in name and len(name) < 200 for name in rows)
    failed = [row for row in rows.values() if row["status"] == "failed"]
    assert code == 1 and len(failed) == 1 and "udcff" in failed[0]["input"] and "Rename" in failed[0]["reason"]
    made = {voxels(path).tobytes() for path in (folder.parent / "out").glob("*.nii.gz")}
    assert made == {(sitk.GetArrayFromImage(other(ct, seed)) >= 100).astype(np.uint8).tobytes()
                    for seed in range(len(names) - 1)}


def test_a_csv_names_paths_cases_and_series(ct, folder, run):
    for seed, name in enumerate(("P1/ct.nii.gz", "P2/ct.nii.gz")):
        (folder / name).parent.mkdir()
        write_volume(other(ct, seed), folder / name)
    write_dicom_series(ct, folder / "P3")
    for file in (folder / "P3").iterdir():
        file.rename(file.with_suffix(""))
    write_dicom_series(other(ct, 2), folder / "P3")
    uid = find_cases(folder / "P3", folder.parent / "out")[0].series
    (folder / "plain.csv").write_text(f"P1/ct.nii.gz\n{folder}/P2/ct.nii.gz\n\nP9/none.nii.gz\nP3\n")
    code, rows = run(folder / "plain.csv")
    assert code == 1 and {"P1_ct", "P2_ct", "P9_none"} < set(rows) and len(rows) == 5
    assert "no such file" in rows["P9_none"]["reason"] and rows["P1_ct"]["status"] == "done"
    (folder / "heads.csv").write_text(f"Case,Path,series\none,P1/ct.nii.gz,\nthree,P3,{uid}\nnone,P3,1.2\n")
    code, rows = run(folder / "heads.csv", "--format", "mha")
    assert code == 1 and {name: row["status"] for name, row in rows.items()} == {
        "none": "failed", "one": "done", "three": "done"}
    assert "no CT series 1.2 in it" in rows["none"]["reason"] and (folder.parent / "out" / "one.mha").exists()


def test_what_is_finished_is_kept_unless_it_was_made_from_something_else(ct, folder, run):
    for seed in range(3):
        write_volume(other(ct, seed), folder / f"P{seed}.nii.gz")
    assert run(folder)[0] == 0
    out, before = folder.parent / "out", {}

    def made_again():
        """Names of the cases that a run made again."""
        before.update({path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")})
        code, rows = run(folder)
        assert code == 0 and len(rows) == 3
        return [path.name[:2] for path in sorted(out.glob("*.nii.gz")) if path.stat().st_mtime_ns != before[path.name]]

    assert made_again() == [] and len(LOADED) == 1
    write_volume(other(ct, 9), folder / "P1.nii.gz")
    assert made_again() == ["P1"] and np.array_equal(voxels(out / "P1.nii.gz"), voxels(folder / "P1.nii.gz") >= 100)
    (out / "P2_overlay.png").unlink()
    assert made_again() == ["P2"]
    (out / ".done" / "P0.json").write_text("{")
    assert made_again() == ["P0"]
    write_json(folder.parent / "network.json", {"above": 0})
    assert made_again() == ["P0", "P1", "P2"]
    (folder / "P1.nii.gz").write_bytes(b"")
    code, rows = run(folder)
    assert code == 1 and rows["P1"]["status"] == "failed" and not (out / "P1.nii.gz").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on(ct, folder, run, workers):
    for seed in range(6):
        write_volume(other(ct, seed), folder / f"P{seed}.nii.gz")
    out = folder.parent / "out"
    options = ["--delay", "0.3", "--workers", str(workers)]
    process = subprocess.Popen([sys.executable, "-m", "tests.threshold", "--input", folder, "--output", out,
                                "--checkpoint", folder.parent / "network.json", *options], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob(".done/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    modified_at = {path: path.stat().st_mtime_ns for path in out.glob(".done/*.json")}
    assert 0 < len(modified_at) < 6 and not (out / "cases.csv").exists()
    code, rows = run(folder, *options)
    assert code == 0 and [row["status"] for row in rows.values()] == ["done"] * 6
    assert all(path.stat().st_mtime_ns == moment for path, moment in modified_at.items())
    assert not list(out.glob(".writing-*"))
    for seed in range(6):
        assert np.array_equal(voxels(out / f"P{seed}.nii.gz"), sitk.GetArrayFromImage(other(ct, seed)) >= 100)


def test_dicom_objects_of_a_cohort_lie_in_folders(ct, folder, run):
    write_dicom_series(ct, folder / "P1")
    write_volume(ct, folder / "P2.nii.gz")
    code, rows = run(folder, "--rtstruct", folder.parent / "rs", "--seg", folder.parent / "out")
    assert code == 1 and rows["P1"]["status"] == "done" and "DICOM objects refer" in rows["P2"]["reason"]
    assert (folder.parent / "rs" / "P1_rtstruct.dcm").exists() and (folder.parent / "out" / "P1_seg.dcm").exists()


def test_a_copied_series_and_a_result_within_the_input_are_no_trouble(ct, folder, run, tmp_path):
    write_dicom_series(ct, folder / "P1")
    shutil.copytree(folder / "P1", folder / "P2")
    shutil.copytree(folder / "P1", folder / "P3" / "half")
    (folder / "P3" / "other").mkdir()
    for file in sorted((folder / "P3" / "half").iterdir())[3:]:
        file.rename(folder / "P3" / "other" / file.name)
    names = [case.name for case in find_cases(folder / "P3", tmp_path / "out")]
    assert names == ["P3"]  # one series in two folders
    shutil.rmtree(folder / "P3")
    for _ in range(2):
        assert main(["--input", str(folder), "--output", str(folder / "out"), "--checkpoint",
                     str(tmp_path / "network.json")]) == 0
        assert [row["case"] for row in read_table(folder / "out" / "cases.csv", [])] == ["P1", "P2"]


def test_a_full_disk_stops_the_run(ct, folder, run, monkeypatch):
    for seed in range(3):
        write_volume(other(ct, seed), folder / f"P{seed}.nii.gz")
    asked = []

    def full(*_):
        asked.append(1)
        raise OSError(28, "No space left on device", "out")

    monkeypatch.setattr(predicting, "write_prediction", full)
    with pytest.raises(OSError, match="No space left"):
        run(folder)
    assert len(asked) <= 2


@pytest.mark.parametrize("output, more, message", [
    ("cts", [], "cts: holds CTs of the input. Name another folder"),
    (".", [], "holds CTs of the input"), ("network.json", [], "network.json: not a folder"),
    ("out", ["--series", "1.2"], "--series 1.2: chooses one CT"), ("out", ["--workers", "-1"], "at least 0"),
    ("out", ["--input", "none.csv"], "none.csv: no such file or folder"),
    ("m.nii.gz", ["--input", "list.csv"], "a single file for several"), ("m.nii.gz", [], "a single file for several"),
    ("out", ["--input", "empty.csv"], "empty.csv: no CT in it"), ("out", ["--input", "hole.csv"], "without a path"),
    ("out", ["--input", "none"], "none: no such file or folder"),
    ("m.nii.gz", ["--input", "cts/P1.nii.gz", "--format", "mha"], "--format mha: for one CT the name"),
    ("out", ["--checkpoint", "none.json"], "none.json: no such file"),
    ("out", ["--input", "bare"], "bare: no CT in it")])
def test_impossible_wishes_are_one_line(ct, folder, run, monkeypatch, output, more, message):
    write_volume(ct, folder / "P1.nii.gz")
    monkeypatch.chdir(folder.parent)
    Path("bare").mkdir()
    Path("empty.csv").write_text("path\n")
    Path("hole.csv").write_text("case,path\nP1,\n")
    Path("list.csv").write_text("cts/P1.nii.gz\n")
    with pytest.raises((InputError, OSError), match=message) as error:
        main(["--input", "cts", "--output", output, "--checkpoint", "network.json", *more])
    assert "\n" not in one_line(error.value)


def test_only_one_run_at_a_time(ct, folder, run):
    write_volume(ct, folder / "P1.nii.gz")
    with only_run_in(folder.parent / "out"), pytest.raises(InputError, match="another run is at work here"):
        run(folder)


@pytest.mark.parametrize("cluster", [False, True])
def test_workers_of_this_machine_or_of_a_cluster_make_the_same(ct, folder, run, cluster):
    for seed in range(3):
        write_volume(other(ct, seed), folder / f"P{seed}.nii.gz")
    (folder / "bad.nii.gz").write_bytes(b"no")
    single = run(folder)
    shutil.rmtree(folder.parent / "out")
    if cluster:
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as there:
            two = run(folder, "--scheduler", there.scheduler_address)
    else:
        two = run(folder, "--workers", "2")
    assert single[0] == two[0] == 1 and len(LOADED) == 1
    for name, row in single[1].items():
        assert {**row, "seconds": ""} == {**two[1][name], "seconds": ""}


def test_each_ct_of_a_cohort_opens_from_the_report_and_an_older_folder_is_kept(ct, folder, run):
    for name in ("P1", "P2"):
        write_volume(ct, folder / f"{name}.nii.gz")
    out = folder.parent / "out"
    run(folder, "--no-viewer")
    assert not list(out.glob("*.html*viewer*")) and "<a " not in (out / "report.html").read_text()
    assert "2 without a page to look into" in (out / "report.html").read_text()
    before = {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in ("P1", "P2")}
    record = read_json(out / ".done" / "P1.json")
    assert "viewer" not in record["made_from"]["options"]  # so that records of before there was one still hold
    (out / "P2.nii.gz").unlink()
    code, rows = run(folder)
    assert code == 0 and {row["status"] for row in rows.values()} == {"done"}
    assert (out / "P1.nii.gz").stat().st_mtime_ns == before["P1"] and not (out / "P1_viewer.html").exists()
    page = (out / "report.html").read_text()
    assert '<a href="P2_viewer.html">P2</a>' in page and page.count("<a ") == 1 and "1 without a page" in page
    assert "P2_viewer.html" in str(read_json(out / ".done" / "P2.json")["files"])
    assert (out / "P2_viewer.html").read_text().startswith("<!doctype html>")
