"""Natural order; every patient in exactly one fold."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_data.errors import InputError
from shared_data.folds import check_unseen, fold_numbers, fold_parts, hold_out, make_folds, natural_sort

NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=60, unique=True)


def test_numbers_count_as_numbers():
    names = ["P10", "P2", "p1", "10", "9", "a", "P2b", "ü3"]
    assert natural_sort(names) == ["9", "10", "a", "p1", "P2", "P2b", "P10", "ü3"]


@given(NAMES)
def test_the_order_of_the_names_given_does_not_matter(names):
    assert natural_sort(names) == natural_sort(names[::-1])


@given(NAMES, st.integers(2, 7))
def test_folds_are_equal_and_hold_everyone_once(names, n_folds):
    folds = make_folds(names, n_folds)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert len(folds) == min(n_folds, len(names))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


@given(NAMES, st.floats(0.01, 0.4))
def test_the_held_out_are_the_last(names, share):
    others, held_out = hold_out(names, share)
    assert others + held_out == natural_sort(names)
    assert len(held_out) == max(1, round(len(names) * share))


@given(st.integers(2, 40))
def test_fold_parts_hold_every_patient_out_once(n_patients):
    names = [f"P{i}" for i in range(n_patients)]
    parts = [fold_parts(names, number, "here") for number in fold_numbers(names, "here")]
    assert [name for _, held_out in parts for name in held_out] == natural_sort(names)
    assert all(sorted(train + held_out) == sorted(names) and held_out and train for train, held_out in parts)


def test_folds_that_are_not_there_and_patients_that_were_seen_are_refused():
    for fold in (0, 6):
        with pytest.raises(InputError, match=f"--val-fold {fold}: here has 5 folds, from 1"):
            fold_parts("ABCDEF", fold, "here")
    with pytest.raises(InputError, match="here: 1 patient to make folds of"):
        fold_numbers("A", "here")
    check_unseen(["P1"], ["P2"], "best.pt")
    with pytest.raises(InputError, match="best.pt: has learnt from P2, P3, P10, ..., which is to be scored"):
        check_unseen(["P1", "P10", "P2", "P3", "P11"], ["P3", "P2", "P10", "P11"], "best.pt")
