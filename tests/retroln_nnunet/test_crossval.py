"""nnU-Net's folds gathered as the others' are; no case is scored by a network that saw its patient."""
import shutil

import pytest

from retroln_nnunet import crossval, test, train
from retroln_nnunet.config import Config
from retroln_nnunet.dataset import make_splits
from retroln_nnunet.model import trained_on
from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json
from shared_data.settings import build, given_options
from shared_results.crossval import check_folds, made_from


def test_the_trained_folds_make_one_table(trained, folders, training, tmp_path):
    shutil.copytree(trained, tmp_path / "nnunet")
    argv = [*folders[:2], "--nnunet-dir", str(tmp_path / "nnunet"), *training, "--no-mirror", "--folds", "0"]
    options = build(crossval.Options, given_options(crossval.Options, argv))
    splits = read_json(tmp_path / "nnunet" / "nnUNet_preprocessed" / "Dataset600_RetroLN" / "splits_final.json")
    given = {name: value for name, value in given_options(crossval.Options, argv).items() if name not in (
        "folds", "mirror")}
    fold, fresh = (crossval.plan(number, given, splits[number], options) for number in (0, 1))
    assert fold.train is None and "--no-prepare" in fresh.train and "--resume" not in fresh.train
    assert trained_on(fold.checkpoints[0]) == splits[0]["train"] == sorted(fold.learnt_from)
    assert test.main(fold.test) == 0
    write_json(fold.scored / "made_from.json", made_from(fold))
    assert crossval.main(argv) == 0
    table = train.model_dir(options) / "crossval" / "cases.csv"
    assert [row["case"] for row in read_table(table, [])] == splits[0]["val"]
    for name, value in (("--fold", "1"), ("--resume", None)):
        with pytest.raises(InputError, match=f"{name}: crossval.py gives each fold its own"):
            crossval.main([*argv, name, *([value] if value else [])])
    write_json(tmp_path / "nnunet" / "nnUNet_preprocessed" / "Dataset600_RetroLN" / "splits_final.json", splits[::-1])
    with pytest.raises(InputError, match="has learnt from P[23], which is to be scored"):
        test.main([*fold.test, "--output-dir", str(tmp_path / "out")])


@pytest.mark.parametrize("n_cases", [2, 5, 6, 23])
def test_no_patient_is_scored_by_a_network_that_saw_him(tmp_path, n_cases):
    cases = [f"P{i // 2}_{i % 2}" for i in range(2 * n_cases)]
    pattern = r"(.+)_\d"
    options = crossval.Options(nnunet_dir=tmp_path, patient_pattern=pattern)
    splits = make_splits(cases, Config(patient_pattern=pattern))
    folds = [crossval.plan(number, {}, split, options) for number, split in enumerate(splits)]
    check_folds(folds)
    assert sorted(case for fold in folds for case in fold.held_out) == sorted(cases)
    assert {fold.held_out[case] for fold in folds for case in fold.held_out} == {f"P{i}" for i in range(n_cases)}
