"""All folds of a project by one command: what is not trained is trained, who was held out is scored, one table has all.

A project's crossval.py says how its train.py and test.py are called; each call is a process of its own, a fold for each
GPU at a time.
"""
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared_data.cohort import fingerprint
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_json, write_json
from shared_data.named_types import Dataclass, StrPath, Values
from shared_data.processes import die_with_parent
from shared_data.settings import at_least, build
from shared_results.crossval_report import Study, write_study

Options = TypeVar("Options", bound=Dataclass)

SKIPPED = 1  # exit code of test.py: some cases were left out, and named
POLL_SECONDS = 0.05
MADE_FROM = "made_from.json"  # beside the scores of a fold


@dataclass(frozen=True)
class FoldOptions:
    """Options of every crossval.py, before those of train.py."""

    folds: tuple[int, ...] | None = None  # which folds; unset: all there are
    parallel: int | None = None  # folds at a time; unset: one for each GPU, or group of --devices GPUs; on a CPU one

    def __post_init__(self) -> None:
        if self.parallel is not None:
            at_least(self, 1, "parallel")


@dataclass(frozen=True)
class Fold:
    """What is to be done for a fold."""

    number: int
    train: list[str] | None  # options of train.py; None: trained
    test: list[str]  # options of test.py that scores the patients held out
    scored: Path  # the folder it writes to
    run: Path  # the run's folder
    checkpoints: tuple[Path, ...]  # files that train.py writes and test.py takes
    learnt_from: tuple[str, ...]  # the patients of the training cases
    held_out: dict[str, str]  # {case: its patient}


def fold_options(options_class: type[Options], given: Values,
                 not_here: Sequence[str] = ("val_fold", "run_dir", "resume")) -> tuple[Options, Values]:
    """(all options, those of the options `given` that are settings of train.py, {field: value}).

    options_class: FoldOptions and what the project's train.py reads; not_here: settings that each fold has its own of.
    """
    for name in not_here:
        if name in given:
            raise InputError(f"--{name.replace('_', '-')}: crossval.py gives each fold its own. Name the folds with "
                             "--folds, or use train.py.")
    own = {*FoldOptions.__annotations__, *options_class.__annotations__}
    return build(options_class, given), {name: value for name, value in given.items() if name not in own}


def chosen(folds: Collection[int] | None, there: Collection[int], where: StrPath) -> list[int]:
    """The folds to run, of those `there`. Raises InputError for one that is not."""
    for number in folds or ():
        if number not in there:
            raise InputError(f"--folds {number}: {where} has the folds {', '.join(map(str, there))}.")
    return sorted(set(folds or there))


def as_arguments(settings: Values) -> list[str]:
    """Settings {field: value} as options of a command line; what is unset is left out."""
    words = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def check_folds(folds: Sequence[Fold]) -> None:
    """Raise InputError unless every patient is held out once at most, and by a network that does not learn from him."""
    places = {}
    for fold in folds:
        for patient in set(fold.held_out.values()):
            if patient in fold.learnt_from or patient in places:
                raise InputError(f"{fold.run}: {patient} is held out, and learnt from or held out elsewhere. Prepare "
                                 "the folds again.")
            places[patient] = fold.number


def cross_validate(study: Study, folds: Sequence[Fold], out: Path, parallel: int | None, gpus: Sequence[str]) -> int:
    """Do what is left of the folds and write the table of all patients to `out`; the exit code: 1 when cases had to be
    left out."""
    check_folds(folds)
    with only_run_in(out):
        partly = run_folds(folds, study.package, out, parallel, gpus)
        write_study(study, folds, out)
    return int(any(partly.values()))


def run_folds(folds: Sequence[Fold], package: str, out: Path, parallel: int | None,
              gpus: Sequence[str]) -> dict[int, bool]:
    """Train and score what is not yet; {fold: whether test.py had to leave cases out}.

    gpus: names of the GPUs of each place where a fold can run, "0" or "0,1"; none on a CPU. With several places what
    the programs say goes to files in `out`. After a failure nothing new is started.
    """
    places = deque(gpus[i % len(gpus)] if gpus else None for i in range(parallel or max(1, len(gpus))))
    threads = max(1, (os.cpu_count() or 1) // len(places)) if len(places) > 1 else None
    waiting, partly = deque(folds), {}
    running: list[Job] = []
    failure = ""
    try:
        while running or (waiting and not failure):
            while waiting and places and not failure:
                fold = waiting.popleft()
                log = out / f"fold{fold.number}.log" if threads else None
                running.append(Job(fold, package, places.popleft(), log, threads))
            for job in [job for job in running if job.ended()]:
                running.remove(job)
                places.append(job.gpus)
                partly[job.fold.number] = job.partly
                failure = failure or job.failure
            time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.stop()
    if failure:
        raise InputError(failure)
    return partly


class Job:
    """A fold at work: its commands, one after the other."""

    def __init__(self, fold: Fold, package: str, gpus: str | None, log: Path | None, threads: int | None) -> None:
        self.fold, self.package, self.gpus, self.log, self.threads = fold, package, gpus, log, threads
        self.partly, self.failure = False, ""  # whether test.py left cases out; what ended the fold early
        self.steps = deque([("train", fold.train)] if fold.train is not None else [])
        self.steps.append(("test", fold.test))
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
        self.process: subprocess.Popen[bytes] | None = None
        self._next()

    def stop(self) -> None:
        """End what is at work."""
        if self.process:
            self.process.terminate()
            self.process.wait()

    def ended(self) -> bool:
        """Whether nothing is left to do, or something failed; starts the next step where there is one."""
        while self.process and self.process.poll() is not None:
            code, step = self.process.returncode, self.step
            self.process = None
            if code not in ((0, SKIPPED) if step == "test" else (0,)):
                said = f": {last_line(self.log)} ({self.log})" if self.log else ", see above"
                self.failure = f"fold {self.fold.number}: {step}.py ended with exit code {code}{said}"
                return True
            if step == "test":
                self.partly = code == SKIPPED
                if not self.partly:
                    write_json(self.fold.scored / MADE_FROM, made_from(self.fold))
            self._next()
        return self.process is None

    def _next(self):
        """Start what comes next, unless it was done before."""
        if self.steps and self.steps[0][0] == "test" and is_scored(self.fold):
            self.steps.clear()
        if not self.steps:
            return
        self.step, options = self.steps.popleft()
        print(f"fold {self.fold.number}: {self.step}{f', see {self.log}' if self.log else ''}", flush=True)
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus
        elif self.log:  # several on one CPU
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        with open(self.log, "a") if self.log else nullcontext() as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{self.package}.{self.step}", *options], env=environment, stdout=stream,
                stderr=subprocess.STDOUT if stream else None, preexec_fn=die_with_parent)


def made_from(fold: Fold) -> dict[str, Any]:
    """What decides on the scores of a fold, as JSON keeps it."""
    return {"checkpoints": [fingerprint(path) for path in fold.checkpoints], "options": list(map(str, fold.test)),
            "held_out": sorted(fold.held_out)}


def is_scored(fold: Fold) -> bool:
    """Whether these very networks have scored these cases with these options."""
    try:
        return read_json(fold.scored / MADE_FROM) == made_from(fold)
    except (InputError, OSError):
        return False


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no word"


def gpu_places(n_gpus: int, devices: int) -> list[str]:
    """Names of the GPUs for each fold that can run at a time, `devices` in each; n_gpus: how many there are."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = names if len(names) >= n_gpus else list(map(str, range(n_gpus)))
    return [",".join(names[start:start + devices]) for start in range(0, n_gpus - devices + 1, devices)]
