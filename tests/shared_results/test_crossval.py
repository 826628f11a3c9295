"""Folds are trained and scored once each, by processes that may be killed; the table has every patient once."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared_data.errors import InputError
from shared_data.files import read_json, read_table
from shared_results.crossval import Fold, as_arguments, check_folds, chosen, cross_validate, gpu_places, made_from
from shared_results.crossval_report import Study

STUDY = Study("Toy", "toy", ("dice",), pooled=(("nodes found", ("found",), ("nodes",)),))
ROOT = Path(__file__).resolve().parents[2]
# train.py counts epochs up to 3 in a file, 0.1 s each; test.py scores patients by their number.
TRAIN = """
import os, sys, time
from pathlib import Path
run, started = Path(sys.argv[1]), time.monotonic()
run.mkdir(parents=True, exist_ok=True)
with open(run / "calls", "a") as calls:
    calls.write(os.environ.get("CUDA_VISIBLE_DEVICES", "none") + "\\n")
if run.name == "fold9":
    sys.exit("toy: error: no such luck") or 2
last = run / "last"
for epoch in range(int(last.read_text() if last.exists() else 0), 3):
    time.sleep(0.1)
    last.write_text(str(epoch + 1))
(run / "best.pt").write_text("weights")
(run / "when").write_text(f"{started} {time.monotonic()}")
"""
TEST = """
import sys
from pathlib import Path
run, patients = Path(sys.argv[1]), sys.argv[2:]
(run / "valid").mkdir(exist_ok=True)
rows = [f"{name},{float(name[1:]) / 10},{1 if name != 'P1' else 0},1" for name in patients]
(run / "valid" / "cases.csv").write_text("\\n".join(["case,dice,found,nodes", *rows]))
if run.name != "fold1":  # as scored by an older version
    rows = [f"{name},node,{bins}" for name in patients for bins in ("0,10,0,1", "11,10,5.25,7")]
    columns = "case,structure,bin,voxels,forecast,drawn"
    (run / "valid" / "calibration_cases.csv").write_text("\\n".join([columns, *rows]))
(run / "scorings").open("a").write("x")
"""
CROSS = """
import sys
from pathlib import Path
from shared_results.crossval import cross_validate
from tests.shared_results.test_crossval import STUDY, plan
runs = Path(sys.argv[1])
sys.exit(cross_validate(STUDY, [plan(runs, number) for number in range(1, 6)], runs / "crossval", None, []))
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").touch()
    (tmp_path / "toy" / "train.py").write_text(TRAIN)
    (tmp_path / "toy" / "test.py").write_text(TEST)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "runs"


def plan(runs, number):
    run, patients = runs / f"fold{number}", [f"P{2 * number - 1}", f"P{2 * number}"]
    trained = (run / "best.pt").exists()
    return Fold(number, None if trained else [str(run)], [str(run), *patients], run / "valid", run, (run / "best.pt",),
                tuple(f"P{n}" for n in range(1, 11) if f"P{n}" not in patients), {name: name for name in patients})


def test_every_patient_is_scored_once_and_nothing_is_done_twice(runs):
    page = runs / "fold2" / "valid" / "viewer" / "P3.html"
    page.parent.mkdir(parents=True)
    page.touch()
    for _ in range(2):
        folds = [plan(runs, number) for number in (1, 2)]
        assert cross_validate(STUDY, folds, runs / "crossval", None, []) == 0
        assert (runs / "fold1" / "scorings").read_text() == "x" and (runs / "fold1" / "calls").read_text() == "none\n"
    rows = read_table(runs / "crossval" / "cases.csv", [])
    assert [(row["fold"], row["case"]) for row in rows] == [("1", "P1"), ("1", "P2"), ("2", "P3"), ("2", "P4")]
    summary = read_json(runs / "crossval" / "summary.json")
    dice, nodes = summary["scores"]
    assert dice["mean"] == pytest.approx(0.25) and 0.1 <= dice["low"] < 0.25 < dice["high"] <= 0.4 and dice["n"] == 4
    assert nodes["mean"] == 0.75 and [row["dice"] for row in summary["by_fold"]] == pytest.approx([0.15, 0.35, 0.25])
    (calibration,) = summary["calibration"]
    assert calibration["cases"] == 2 and calibration["ece"] == pytest.approx(0.175)
    assert calibration["below"] == pytest.approx(1 / 8) and (runs / "crossval" / "calibration.png").exists()
    report = (runs / "crossval" / "report.html").read_text()
    assert '<a href="../fold2/valid/viewer/P3.html">P3</a>' in report and "Calibration: without fold 1," in report
    (runs / "fold1" / "best.pt").write_text("other weights")
    cross_validate(STUDY, [plan(runs, number) for number in (1, 2)], runs / "crossval", None, [])
    assert [(runs / f"fold{k}" / "scorings").read_text() for k in (1, 2)] == ["xx", "x"]


@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_in_the_middle_of_fold_3_the_same_command_goes_on(runs, whole_group):
    command = [sys.executable, "-c", CROSS, str(runs)]
    killed = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (runs / "fold3" / "last").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    if whole_group:
        os.killpg(killed.pid, signal.SIGKILL)
    else:
        killed.kill()
    killed.wait()
    time.sleep(0.3)
    assert (runs / "fold3" / "last").read_text() != "3"  # the training did not outlive what started it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "fold 3: train" in done and "fold 2" not in done
    assert len((runs / "fold3" / "calls").read_text().split()) == 2
    assert len(read_table(runs / "crossval" / "cases.csv", [])) == 10


def test_each_gpu_has_a_fold_at_a_time(runs):
    folds = [plan(runs, number) for number in range(1, 5)]
    cross_validate(STUDY, folds, runs / "crossval", None, ["2,3", "4,5"])
    used = [(runs / f"fold{number}" / "calls").read_text().strip() for number in range(1, 5)]
    assert sorted(used) == ["2,3", "2,3", "4,5", "4,5"] and used[0] != used[1]
    when = [tuple(map(float, (runs / f"fold{number}" / "when").read_text().split())) for number in range(1, 5)]
    for one, other in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        apart = when[one][1] <= when[other][0] or when[other][1] <= when[one][0]
        assert apart or used[one] != used[other]
    assert (runs / "crossval" / "fold1.log").exists()


def test_a_fold_that_fails_stops_what_is_to_come_and_says_so(runs):
    folds = [plan(runs, number) for number in (9, 1)]
    with pytest.raises(InputError, match="fold 9: train.py ended with exit code 1, see above"):
        cross_validate(STUDY, folds, runs / "crossval", None, [])
    assert not (runs / "fold1").exists()
    with pytest.raises(InputError, match="fold 9: .*toy: error: no such luck .*fold9.log"):
        cross_validate(STUDY, folds, runs / "crossval", 2, [])


def test_a_patient_that_a_network_saw_is_never_scored_by_it(runs):
    fold = plan(runs, 1)
    for other in (Fold(**{**vars(fold), "learnt_from": ("P2", "P9")}), Fold(**{**vars(fold), "number": 2})):
        with pytest.raises(InputError, match="is held out, but also trained on or held out elsewhere"):
            check_folds([fold, other] if other.number == 2 else [other])
    fold.scored.mkdir(parents=True)
    (fold.run / "best.pt").touch()
    (fold.scored / "cases.csv").write_text("case,dice,found,nodes\nP7,1,1,1\n")
    (fold.scored / "made_from.json").write_text(json.dumps(made_from(plan(runs, 1))))
    with pytest.raises(InputError, match="P7 was not held out by fold 1 alone"):
        cross_validate(STUDY, [plan(runs, 1)], runs / "crossval", None, [])


def test_small_things(monkeypatch):
    assert as_arguments({"a_b": (1, 2), "yes": True, "no": False, "unset": None, "path": Path("/x y")}) == [
        "--a-b", "1", "2", "--yes", "--no-no", "--path", "/x y"]
    assert chosen(None, range(3), "here") == [0, 1, 2] and chosen((2, 1), range(3), "here") == [1, 2]
    with pytest.raises(InputError, match="--folds 5: here has the folds 0, 1, 2"):
        chosen((5,), range(3), "here")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    assert gpu_places(3, 1) == ["3", "5", "7"] and gpu_places(3, 2) == ["3,5"] and gpu_places(0, 1) == []
