"""Scoring in one process or several gives the same; a case that cannot be scored is named, a full disk stops all."""
import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared_data.errors import InputError
from shared_results.scoring import ScoringOptions, kept, score_each, stamp_of


@dataclass(frozen=True, kw_only=True)
class Options(ScoringOptions):
    network: Path


def load(options):
    return int(options.network.read_text())


def score(case, factor, options):
    if case == "bad":
        raise InputError("damaged. Make it again.")
    if case == "gone":
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "P7.npz")
    if case == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "out")
    return factor * len(case)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_case_that_cannot_be_scored_is_named(tmp_path, workers):
    (tmp_path / "net").write_text("3")
    options = Options(network=tmp_path / "net", workers=workers)
    scored, skipped = score_each(score, ["a", "bad", "bcd", "gone"], load(options), load, options, [options.network])
    assert scored == [("a", 3), ("bcd", 9)]
    assert skipped == [("bad", "damaged. Make it again."),
                       ("gone", "P7.npz: No such file or directory. Check the path.")]
    with pytest.raises(OSError, match="No space left"):
        score_each(score, ["a", "full"], 3, load, options, [options.network])


def test_a_process_keeps_a_network_until_its_file_changes(tmp_path):
    options = Options(network=tmp_path / "net")
    options.network.write_text("3")
    stamp = stamp_of([options.network])
    assert kept(load, options, stamp) == 3
    options.network.write_text("44")
    assert kept(load, options, stamp) == 3 and kept(load, options, stamp_of([options.network])) == 44
