"""Patient folds beside the prepared split: trained, scored, and never by a network that saw the patient."""
import pytest

from sepnet import crossval, segmentation, test, train
from sepnet.config import Config
from sepnet.dataset import case_folders
from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json, write_table
from shared_results.crossval import check_folds, made_from
from shared_torch.checkpoints import trained_on


def test_one_command_trains_scores_and_tells_of_all_patients(prepared, training, tmp_path):
    runs, options = tmp_path / "runs", [*training, "--epochs", "1", "--steps-per-epoch", "1", "--window-step", "16"]
    given = {"prepared_dir": prepared, "device": "cpu"}
    for number in (1, 4):
        train.main([*options, "--val-fold", str(number), "--run-dir",
                    str(runs / f"fold{number}" / "multi_thresh_1_alpha0.5")])
        fold = crossval.plan(number, given, runs / f"fold{number}")
        assert fold.train is None and sorted(trained_on(fold.checkpoints[0])) == sorted(fold.learnt_from)
        test.main(fold.test)
        write_json(fold.scored / "made_from.json", made_from(fold))
    assert crossval.main([*training[:2], "--device", "cpu", "--runs-dir", str(runs), "--folds", "1", "4"]) == 0
    rows = read_table(runs / "crossval" / "cases.csv", [])
    assert [(row["fold"], row["case"]) for row in rows] == [("1", "1"), ("4", "4")]
    assert len(read_table(runs / "crossval" / "organs_of_cases.csv", [])) == 2 * 22
    organs = read_json(runs / "crossval" / "summary.json")["organs"]
    assert {"organ", "dice", "low", "high", "lowest"} <= organs[0].keys()
    checkpoint = runs / "fold1" / "multi_thresh_1_alpha0.5" / "best.pt"
    for script, places in ((test, ["--output-dir", str(tmp_path / "out")]),
                           (segmentation, ["--results-dir", str(tmp_path / "out")])):
        with pytest.raises(InputError, match="best.pt: has learnt from "):
            script.main(["--checkpoint", str(checkpoint), str(runs / "fold4" / "multi_thresh_1_alpha0.5" / "best.pt"),
                         "--prepared-dir", str(prepared), "--device", "cpu", *places])


@pytest.mark.parametrize("n_patients", [2, 3, 5, 6, 11, 50])
def test_no_patient_is_scored_by_a_network_that_saw_him(tmp_path, n_patients):
    parts = ["train"] * (n_patients - 1) + ["valid"]
    rows = [{"case": f"P{i}", "part": part} for i, part in enumerate(parts)] + [{"case": "T1", "part": "test"}]
    write_table(tmp_path / "cases.csv", rows)
    write_json(tmp_path / "config.json", {})
    numbers = range(1, min(5, n_patients) + 1)
    check_folds([crossval.plan(number, {"prepared_dir": tmp_path}, tmp_path / f"fold{number}") for number in numbers])
    held_out = [folder.name for number in numbers
                for folder in case_folders(Config(prepared_dir=tmp_path, val_fold=number), "valid")]
    assert sorted(held_out) == sorted(row["case"] for row in rows if row["part"] != "test")
    for number in (None, *numbers):
        config = Config(prepared_dir=tmp_path, val_fold=number)
        train_cases, valid, test_cases = ({folder.name for folder in case_folders(config, part)}
                                          for part in ("train", "valid", "test"))
        assert not train_cases & valid and test_cases == {"T1"} and len(train_cases | valid) == n_patients


def test_all_members_of_a_fold_lie_side_by_side(prepared, tmp_path):
    fold = crossval.plan(2, {"prepared_dir": prepared, "all_members": True}, tmp_path / "fold2")
    assert len(fold.checkpoints) == 6 and {path.parents[1] for path in fold.checkpoints} == {tmp_path / "fold2"}
    assert "--all-members" in fold.train and "--no-resume" in fold.train
    assert Config(val_fold=2).run_dir.parts[-3:] == ("sepnet_folds", "fold2", "multi_thresh_1_alpha0.5")
