"""No patient in two splits, for every fold of every cohort size."""
import pytest

from shared_data.errors import InputError
from shared_data.folds import natural_sort
from snet_neck_ln.process_data.data_parser import main, read_fold, split_patients


@pytest.mark.parametrize("n_patients", range(3, 222))
def test_no_patient_is_in_two_splits(n_patients):
    patients = [f"P{i}" for i in range(1, n_patients + 1)]
    folds = split_patients(patients[::-1], "cohort")
    validated = []
    for parts in folds:
        assert all(parts.values())
        assert sorted(parts["train"] + parts["valid"] + parts["test"]) == sorted(patients)  # each once, none twice
        assert parts["test"] == folds[0]["test"] and len(parts["test"]) == max(1, round(n_patients * 21 / 221))
        validated += parts["valid"]
    assert validated + folds[0]["test"] == natural_sort(patients)
    assert len(folds) == min(5, n_patients - len(folds[0]["test"]))


def test_the_papers_cohort_is_split_as_in_the_paper():
    patients = [f"P{i}" for i in range(1, 222)]
    for number, parts in enumerate(split_patients(patients, "cohort"), 1):
        assert parts["valid"] == patients[40 * (number - 1):40 * number]
        assert parts["train"] == [name for name in patients[:200] if name not in parts["valid"]]
        assert parts["test"] == patients[200:]


@pytest.mark.parametrize("n_patients", [0, 1, 2])
def test_too_few_patients_are_refused(n_patients):
    with pytest.raises(InputError, match=f"{n_patients} patient.*at least 3"):
        split_patients([f"P{i}" for i in range(n_patients)], "cohort")


def test_lists_hold_every_slice_once(prepared):
    for fold in (1, 2, 3, 4):
        paths = [path for part in ("train", "valid", "test") for paths in read_fold(prepared, fold, part)
                 for path in paths]
        assert sorted(paths) == sorted(f"P{p}/files/{k}.npz" for p in range(1, 6) for k in range(5))
    with pytest.raises(InputError, match="fold9: no such fold .fold1, fold2, fold3, fold4 there"):
        read_fold(prepared, 9, "train")


@pytest.mark.parametrize("option, script", [("--epochs", "train.py"), ("--data-dir", "data_process_lymph_node.py"),
                                            ("--workers", "data_process_lymph_node.py and train.py")])
def test_what_data_parser_does_not_read_is_refused(tmp_path, option, script):
    with pytest.raises(InputError, match=f"unknown option {option} .a setting of {script}.. Valid: --help --prep"):
        main(["--prepared-dir", str(tmp_path), option, "1"])


def test_unprepared_cohorts_are_refused(tmp_path):
    with pytest.raises(InputError, match="slices.csv: no such file"):
        main(["--prepared-dir", str(tmp_path)])


@pytest.mark.parametrize("content", ["", "patient,slice\n", "patient,slice,path,has_node\nP1,0,P1/files/0.npz,yes\n",
                                     "patient,slice,path,has_node\nP1,0,../x.npz,1\n"])
def test_damaged_slice_tables_are_refused(tmp_path, content):
    (tmp_path / "slices.csv").write_text(content)
    with pytest.raises(InputError, match="slices.csv"):
        main(["--prepared-dir", str(tmp_path)])


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"abc.npz\n# 1 slices\n", b"\n\n", b"P1/files/1.npz\n",
                                     b"P1/files/1.npz\n# 2 slices\n"])
def test_damaged_lists_are_refused(tmp_path, content):
    (tmp_path / "folds" / "fold1").mkdir(parents=True)
    (tmp_path / "folds" / "fold1" / "train_with_node.txt").write_bytes(content)
    with pytest.raises(InputError, match="train_with_node.txt: damaged, cut short or missing"):
        read_fold(tmp_path, 1, "train")
