"""Patient folds of the table's scans: trained, scored, and never by a network that saw the patient."""
import numpy as np
import pytest

from lung_nodule_nasnet import crossval, test
from lung_nodule_nasnet.checkpoint import load_checkpoint, save_checkpoint
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.slice_idx import split_of
from lung_nodule_nasnet.table import read_columns
from lung_nodule_nasnet.training import build_sequences
from shared_data.errors import InputError
from shared_data.files import read_table, write_json
from shared_results.crossval import check_folds, made_from


def test_one_command_scores_and_tells_of_all_patients(run_dir, prepared, tmp_path):
    runs, columns = tmp_path / "runs", read_columns(prepared / "table.h5")
    for name in ("best.npz", "last.npz"):  # as if trained on the fold
        state, groups = load_checkpoint(run_dir / name)
        config = Config(prepared_dir=prepared, val_fold=2, size=64)
        used = build_sequences(config)[3]
        save_checkpoint(runs / "fold2" / name, {**state, "config": {**state["config"], "val_fold": 2}, **used},
                        **groups)
    fold = crossval.plan(2, {"prepared_dir": prepared, "device": "cpu"}, runs / "fold2", columns)
    assert fold.train is None
    state = load_checkpoint(runs / "fold2" / "best.npz")[0]
    assert state["trained_on"] == sorted(fold.learnt_from) and not set(fold.held_out) & set(state["trained_on"])
    test.main(fold.test)
    write_json(fold.scored / "made_from.json", made_from(fold))
    assert crossval.main(["--prepared-dir", str(prepared), "--device", "cpu", "--runs-dir", str(runs), "--folds",
                          "2"]) == 0
    assert [row["case"] for row in read_table(runs / "crossval" / "cases.csv", [])] == list(fold.held_out)


@pytest.mark.parametrize("n_patients", [2, 4, 7, 31])
def test_no_patient_is_scored_by_a_network_that_saw_him(tmp_path, n_patients):
    patients = [f"LIDC-{i // 3}" for i in range(3 * n_patients)]
    columns = {"subject_ids": [*patients, "LEFT", "LIDC-0"], "series_uids": [*patients, "left", "second scan"],
               "has_nodule": np.ones(3 * n_patients + 2, bool), "size": 64}
    left_out = {"train": [0], "validation": [1], "n_slices": 3 * n_patients + 2, "left_out": ["left"]}
    write_json(tmp_path / "slice_idx.json", left_out)
    write_json(tmp_path / "config.json", {})
    numbers = range(1, min(5, n_patients) + 1)
    folds = [crossval.plan(number, {"prepared_dir": tmp_path}, tmp_path / f"fold{number}", columns)
             for number in numbers]
    check_folds(folds)
    cases = {case: patient for fold in folds for case, patient in fold.held_out.items()}
    assert len(cases) == n_patients + 1 and cases["LIDC-0_1"] == cases["LIDC-0_2"] == "LIDC-0"
    held_out = [i for number in numbers
                for i in split_of(Config(prepared_dir=tmp_path, val_fold=number), columns)["validation"]]
    assert sorted(held_out) == [*range(3 * n_patients), 3 * n_patients + 1]
    with pytest.raises(InputError, match="no validation slice holds a nodule"):
        split_of(Config(prepared_dir=tmp_path, val_fold=1),
                 {**columns, "has_nodule": np.arange(3 * n_patients + 2) == 3 * n_patients - 1})


def test_a_patient_that_the_network_has_seen_is_not_scored(run_dir, prepared, tmp_path):
    seen = load_checkpoint(run_dir / "best.npz")[0]["trained_on"]
    columns = read_columns(prepared / "table.h5")
    rows = {side: [i for i, name in enumerate(columns["subject_ids"]) if (name == seen[0]) == (side == "validation")]
            for side in ("train", "validation")}
    (tmp_path / "table.h5").symlink_to(prepared / "table.h5")
    write_json(tmp_path / "slice_idx.json", {**rows, "n_slices": len(columns["subject_ids"]), "left_out": []})
    with pytest.raises(InputError, match=f"has learnt from {seen[0]}, which is to be scored"):
        test.main(["--run-dir", str(run_dir), "--prepared-dir", str(tmp_path), "--device", "cpu", "--output-dir",
                   str(tmp_path / "out")])
