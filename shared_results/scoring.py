"""The loop of every test.py over its cases: in this process, in several, or on a cluster."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from shared_data.cohort import all_skipped, each_case, fingerprint
from shared_data.errors import InputError, Skipped, concerns_all, one_line
from shared_data.named_types import StrPath
from shared_data.settings import Cluster, at_least

Case = TypeVar("Case")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")
Options = TypeVar("Options", bound="ScoringOptions")
AnyOptions = TypeVar("AnyOptions")


@dataclass(frozen=True, kw_only=True)
class ScoringOptions(Cluster):
    """Options of every test.py."""

    workers: int = 0  # processes, each with its own network and case; 0: only this one, one case after another
    sweep: bool = False  # write sweep.csv for crossval.py: what other thresholds and smallest components find

    def __post_init__(self) -> None:
        at_least(self, 0, "workers", "worker_memory_gb")

    @property
    def alone(self) -> bool:
        """Whether this process scores all cases itself, so that a progress bar within a case makes sense."""
        return not (self.workers or self.scheduler)


def score_all(score: Callable[[Case, Loaded, Options], tuple[Any, ...]], cases: Sequence[Case], loaded: Loaded,
              load: Callable[[Options], Loaded], options: Options, networks: Iterable[Path], where: StrPath,
              unit: str = "case",
              name: Callable[[Case], str] = str) -> tuple[list[Case], tuple[Any, ...], dict[str, str]]:
    """(cases scored, the tuples that `score` returned for them, transposed, {name: why a case was left out}).

    The arguments are those of `score_each`. Raises InputError, naming the folder `where`, if no case could be scored.
    """
    scored, skipped = score_each(score, cases, loaded, load, options, networks, unit)
    reasons = {name(case): reason for case, reason in skipped}
    if not scored:
        raise all_skipped(where, reasons)
    return [case for case, _ in scored], tuple(zip(*(result for _, result in scored))), reasons


def score_each(score: Callable[[Case, Loaded, Options], Result], cases: Sequence[Case], loaded: Loaded,
               load: Callable[[Options], Loaded], options: Options, networks: Iterable[Path],
               unit: str = "case") -> tuple[list[tuple[Case, Result]], list[tuple[Case, str]]]:
    """([(case, score(case, loaded, options))], [(case, why it was left out)]), both in the order of the cases.

    score, load: functions of a module, since other processes import them. Each of those calls load(options) once for
    its own `loaded`; networks: the files that it reads. A case is left out for an InputError, an OSError that does not
    concern all cases, or a fault of the program.
    """
    if options.alone:
        work = partial(_or_reason, score=score, loaded=loaded, options=options)
    else:
        work = partial(_in_worker, score=score, load=load, options=options, stamp=stamp_of(networks))
    scored, skipped = [], []
    for case, outcome in each_case(work, cases, options.workers, unit, options.scheduler, options.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped.append((case, outcome.reason))
        else:
            scored.append((case, outcome))
    return scored, skipped


def _in_worker(case, score, load, options, stamp):
    return _or_reason(case, score, kept(load, options, stamp), options)


def _or_reason(case, score, loaded, options):
    try:
        return score(case, loaded, options)
    except (InputError, OSError) as error:
        if concerns_all(error):
            raise
        return Skipped(one_line(error))


@lru_cache(maxsize=1)
def kept(load: Callable[[AnyOptions], Loaded], options: AnyOptions, stamp: str) -> Loaded:
    """load(options), which a process keeps for its next case until `stamp`, the `stamp_of` the files, changes."""
    return load(options)


def stamp_of(networks: Iterable[Path]) -> str:
    """Text that changes when one of the files does."""
    return repr([fingerprint(path) for path in networks if path.is_file()])
