"""Natural order; every patient in exactly one fold."""
from hypothesis import given
from hypothesis import strategies as st

from shared_data.folds import hold_out, make_folds, natural_sort

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
