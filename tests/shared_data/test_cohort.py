import os
import signal
from pathlib import Path

import pytest

from shared_data.cluster import ENDED
from shared_data.cohort import all_skipped, check_apart, check_case_name, each_case, fingerprint, say_skipped
from shared_data.errors import InputError, Skipped


def halved(number):
    return number // 2 if number % 2 == 0 else Skipped("odd")


def die_of_some(case):
    """2 ends its worker each time, 3 the first time."""
    number, folder = case
    if number == 2 or (number == 3 and not (folder / "again").exists()):
        (folder / ("again" if number == 3 else "2")).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [0, 2])
def test_cases_come_back_in_order(workers):
    assert list(each_case(halved, [4, 3, 2], workers)) == [(4, 2), (3, Skipped("odd")), (2, 1)]


def broken_for_2(number):
    return {1: "one", 3: "three"}[number]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_the_program_names_the_case_tells_where_and_stops_no_other(workers, capfd):
    outcomes = dict(each_case(broken_for_2, [1, 2, 3], workers))
    assert (outcomes[1], outcomes[3]) == ("one", "three")
    assert outcomes[2].reason == "a fault of the program, see the traceback: KeyError: 2"
    stderr = capfd.readouterr().err
    assert stderr.count("Traceback") == 1 and "in broken_for_2" in stderr and stderr.rstrip().endswith("KeyError: 2")


def test_what_is_wrong_with_a_disk_stops_the_run(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(each_case(Path.read_text, [tmp_path / "absent"], 0))


def test_a_case_that_twice_ends_its_worker_is_named_alone(tmp_path, capfd):
    cases = [(number, tmp_path) for number in range(5)]
    assert list(each_case(die_of_some, cases, 2)) == list(zip(cases, [0, 1, ENDED, 3, 4]))
    assert capfd.readouterr() == ("", "")  # not a word of Dask


def test_skipped_cases_are_named(capsys):
    assert say_skipped({}) == 0
    assert say_skipped({"a\nb": "empty file"}) == 1
    assert capsys.readouterr().err == "skipped 'a\\nb': empty file\n"
    assert str(all_skipped("raw", {"1": "empty", "2": "flat"})) == "raw: no case could be used. 1: empty | 2: flat"


@pytest.mark.parametrize("raw, prepared", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_raw_and_prepared_lie_apart(tmp_path, raw, prepared):
    with pytest.raises(InputError, match="must lie apart"):
        check_apart(tmp_path / raw, tmp_path / prepared)
    check_apart(tmp_path / "a", tmp_path / "ab")


@pytest.mark.parametrize("name", ["folds", "", "a\nb", "ü" * 150])
def test_names_that_cannot_be_prepared(name):
    with pytest.raises(InputError, match="cannot be prepared"):
        check_case_name(Path(name), reserved=("folds",))
    check_case_name(Path("fälle 1"), reserved=("folds",))


def test_a_changed_source_has_another_fingerprint(tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"1")
    before = fingerprint(tmp_path)
    (tmp_path / "2.dcm").write_bytes(b"2")
    assert fingerprint(tmp_path) != before
