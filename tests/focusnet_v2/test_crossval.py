"""Patient folds beside the published splits; no stage, and no score, sees a patient from both sides."""
import pytest

from focusnet_v2 import crossval, test, train
from focusnet_v2.cases import cases_of
from focusnet_v2.config import Config
from shared_data.errors import InputError
from shared_data.files import read_table, write_json, write_table
from shared_results.crossval import check_folds, made_from
from shared_torch.checkpoints import trained_on


def test_one_command_trains_scores_and_tells_of_all_patients(prepared, training, tmp_path):
    runs = tmp_path / "runs"
    options = [*training, *"--backbone-epochs 1 --sol-epochs 1 --ae-epochs 1 --adv-epochs 1".split()]
    run = runs / "fold1"
    train.main([*options, "--val-fold", "1", "--run-dir", str(run)])
    fold = crossval.plan(1, {"prepared_dir": prepared, "device": "cpu"}, run)
    assert fold.train is None and sorted(trained_on(fold.checkpoints[0])) == sorted(fold.learnt_from)
    test.main(fold.test)
    write_json(fold.scored / "made_from.json", made_from(fold))
    assert crossval.main([*training[:2], "--device", "cpu", "--runs-dir", str(runs), "--folds", "1"]) == 0
    held_out = cases_of(Config(prepared_dir=prepared, val_fold=1), "valid")
    assert [row["case"] for row in read_table(runs / "crossval" / "cases.csv", [])] == held_out
    with pytest.raises(InputError, match="made with other settings: val_fold 1 .now 2."):
        train.main([*options, "--val-fold", "2", "--run-dir", str(runs / "fold1")])
    with pytest.raises(InputError, match="has learnt from "):
        test.main(["--checkpoint", str(runs / "fold1" / "adversarial" / "best.pt"), "--prepared-dir",
                   str(other_cases(prepared, held_out[0], tmp_path)), "--device", "cpu", "--split", "test",
                   "--output-dir", str(tmp_path / "out")])


def other_cases(prepared, kept, tmp_path):
    """The prepared folder, its cases now split otherwise."""
    folder = tmp_path / "other"
    folder.mkdir()
    for path in prepared.iterdir():
        if path.name != "cases.csv":
            (folder / path.name).symlink_to(path)
    rows = read_table(prepared / "cases.csv", ["case", "part"])
    write_table(folder / "cases.csv", [{**row, "part": "valid" if row["case"] == kept else "test"} for row in rows])
    return folder


@pytest.mark.parametrize("n_cases", [2, 4, 5, 12, 33])
@pytest.mark.parametrize("twice", [True, False])
def test_no_patient_is_scored_by_a_network_that_saw_him(tmp_path, n_cases, twice):
    names = [f"0522c{i:04d}" for i in range(n_cases)]
    rows = [{"case": name, "part": "train" if i % 4 else "valid", "note": ""} for i, name in enumerate(names)]
    rows += [{"case": "T", "part": "test", "note": ""}]
    rows += [{"case": "T", "part": "valid", "note": ""}] * twice  # --split authors
    write_table(tmp_path / "cases.csv", rows)
    write_json(tmp_path / "config.json", {})
    numbers = range(1, min(5, n_cases) + 1)
    folds = [crossval.plan(number, {"prepared_dir": tmp_path}, tmp_path / f"fold{number}") for number in numbers]
    check_folds(folds)
    assert sorted(case for fold in folds for case in fold.held_out) == names
    for number in numbers:
        config = Config(prepared_dir=tmp_path, val_fold=number)
        train_cases, valid = (set(cases_of(config, part)) for part in ("train", "valid"))
        assert not train_cases & valid and cases_of(config, "test") == ["T"] and "T" not in train_cases | valid
    with pytest.raises(InputError, match="--val-fold 9: "):
        cases_of(Config(prepared_dir=tmp_path, val_fold=9), "train")
