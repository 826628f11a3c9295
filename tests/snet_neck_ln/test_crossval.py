"""Every fold trained and scored by one command, also after kill -9; no patient is scored by a network that saw him."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json
from shared_results.crossval import check_folds, made_from
from snet_neck_ln import crossval, test
from snet_neck_ln.config import Config
from snet_neck_ln.crossval import plan


@pytest.fixture
def options(training, tmp_path):
    return [*training, "--threshold", "0.3", "--runs-dir", str(tmp_path / "runs")]


def test_killed_in_the_middle_of_fold_3_it_goes_on(run_dir, prepared, options, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(run_dir, runs / "fold1")  # trained by hand
    fold = plan(1, {"prepared_dir": prepared, "threshold": 0.3, "device": "cpu"}, runs / "fold1")
    assert fold.train is None
    test.main(fold.test)
    write_json(fold.scored / "made_from.json", made_from(fold))
    before = (runs / "fold1" / "last.pt").stat().st_mtime_ns
    killed = subprocess.Popen([sys.executable, "-m", "snet_neck_ln.crossval", *options, "--folds", "1", "3"],
                              start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (runs / "fold3" / "last.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(read_table(runs / "fold3" / "history.csv", [])) == 1
    assert crossval.main([*options, "--folds", "1", "3"]) == 0
    assert (runs / "fold1" / "last.pt").stat().st_mtime_ns == before
    assert [row["epoch"] for row in read_table(runs / "fold3" / "history.csv", [])] == ["1", "2"]
    rows = read_table(runs / "crossval" / "cases.csv", [])
    assert [(row["fold"], row["case"]) for row in rows] == [("1", "P1"), ("3", "P3")]
    point = read_json(runs / "crossval" / "operating_point.json")
    assert point["folds"] == [1, 3] and point["patients"] == 2 and point["tta"] is False
    assert "chosen without the fold" in (runs / "crossval" / "report.html").read_text()
    with pytest.raises(InputError, match="made with other settings: lr 0.001 .now 0.1"):
        crossval.main([*options, "--folds", "1", "--lr", "0.1"])


def test_the_folds_hold_everyone_out_once(prepared, tmp_path):
    folds = [plan(number, {"prepared_dir": prepared}, tmp_path / f"fold{number}") for number in (1, 2, 3, 4)]
    check_folds(folds)
    assert [list(fold.held_out) for fold in folds] == [["P1"], ["P2"], ["P3"], ["P4"]]
    assert all(len(fold.learnt_from) == 3 and "P5" not in fold.learnt_from for fold in folds)
    assert Config(val_fold=3).run_dir.parent == Config().run_dir.parent


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_patient_that_the_network_has_seen_is_not_scored(run_dir, prepared, tmp_path, split):
    options = ["--run-dir", str(run_dir), "--split", split, "--device", "cpu", "--output-dir", str(tmp_path / "out")]
    if split == "test":
        assert test.main(options) == 0
        return
    with pytest.raises(InputError, match="best.pt: has learnt from P2, which is to be scored"):
        test.main([*options, "--val-fold", "2"])


def test_what_each_fold_has_of_its_own_is_refused(options):
    for name, value in (("--val-fold", "1"), ("--run-dir", "/tmp/x")):
        with pytest.raises(InputError, match=f"{name}: crossval.py gives each fold its own"):
            crossval.main([*options, name, value])
    with pytest.raises(InputError, match="--folds 7: .* has the folds 1, 2, 3, 4"):
        crossval.main([*options, "--folds", "7"])
