"""All folds of a project with one command: train what is not trained yet, score the held-out patients, and collect all
scores in one table.

A project's crossval.py says how to call its train.py and test.py. Each call is a process of its own; one fold runs on
each GPU at a time.
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

SKIPPED = 1  # exit code of test.py when it left out, and named, some cases
POLL_SECONDS = 0.05
MADE_FROM = "made_from.json"  # beside the scores of a fold


@dataclass(frozen=True)
class FoldOptions:
    """Options of every crossval.py, beside those of train.py."""

    folds: tuple[int, ...] | None = None  # which folds; unset: all of them
    parallel: int | None = None  # folds at a time; unset: one per GPU, or per group of --devices GPUs; one on a CPU

    def __post_init__(self) -> None:
        if self.parallel is not None:
            at_least(self, 1, "parallel")


@dataclass(frozen=True)
class Fold:
    """One fold: how to train and score it, and on whom."""

    number: int
    train: list[str] | None  # options of train.py; None: trained already
    test: list[str]  # options of test.py, which scores the held-out patients
    scored: Path  # the folder that test.py writes to
    run: Path  # the run's folder
    checkpoints: tuple[Path, ...]  # files that train.py writes and test.py reads
    learnt_from: tuple[str, ...]  # the patients of the training cases
    held_out: dict[str, str]  # {case: its patient}


def fold_options(options_class: type[Options], given: Values,
                 not_here: Sequence[str] = ("val_fold", "run_dir", "resume")) -> tuple[Options, Values]:
    """(all options, {field: value} of those `given` that are settings of train.py).

    options_class: FoldOptions and what the project's train.py reads; not_here: settings that differ between the folds.
    Raises InputError when one of those is given.
    """
    for name in not_here:
        if name in given:
            raise InputError(f"--{name.replace('_', '-')}: crossval.py gives each fold its own. Name the folds with "
                             "--folds, or use train.py.")
    not_for_train = {*FoldOptions.__annotations__, *options_class.__annotations__}
    return build(options_class, given), {name: value for name, value in given.items() if name not in not_for_train}


def chosen(folds: Collection[int] | None, existing: Collection[int], where: StrPath) -> list[int]:
    """The folds to run, sorted: `folds`, or all `existing` ones. Raises InputError for one that does not exist."""
    for number in folds or ():
        if number not in existing:
            raise InputError(f"--folds {number}: {where} has the folds {', '.join(map(str, existing))}.")
    return sorted(set(folds or existing))


def as_arguments(settings: Values) -> list[str]:
    """Settings {field: value} as options of a command line; None is left out."""
    words = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def check_folds(folds: Sequence[Fold]) -> None:
    """Raise InputError if a patient is held out by several folds, or by one that trains on them."""
    held_out: set[str] = set()
    for fold in folds:
        for patient in set(fold.held_out.values()):
            if patient in fold.learnt_from or patient in held_out:
                raise InputError(f"{fold.run}: {patient} is held out, but also trained on or held out elsewhere. "
                                 "Prepare the folds again.")
            held_out.add(patient)


def cross_validate(study: Study, folds: Sequence[Fold], out: Path, parallel: int | None, gpus: Sequence[str]) -> int:
    """Train and score what is left of the folds and write the report on all patients to `out`.

    Returns the exit code: 1 when cases had to be left out. parallel, gpus: as in `run_folds`.
    """
    check_folds(folds)
    with only_run_in(out):
        incomplete = run_folds(folds, study.package, out, parallel, gpus)
        write_study(study, folds, out)
    return int(any(incomplete.values()))


def run_folds(folds: Sequence[Fold], package: str, out: Path, parallel: int | None,
              gpus: Sequence[str]) -> dict[int, bool]:
    """Train and score the folds, except what is done already; {fold: whether test.py had to leave cases out}.

    gpus: the GPUs of each slot in which a fold can run, such as "0" or "0,1"; empty on a CPU. parallel: the number of
    slots; None: one per entry of `gpus`. With several slots the output of the programs goes to log files in `out`.
    Raises InputError when a fold fails; those already running are finished first, no other is started.
    """
    slots = deque(gpus[i % len(gpus)] if gpus else None for i in range(parallel or max(1, len(gpus))))
    threads = max(1, (os.cpu_count() or 1) // len(slots)) if len(slots) > 1 else None
    waiting, incomplete = deque(folds), {}
    running: list[Job] = []
    failure = ""
    try:
        while running or (waiting and not failure):
            while waiting and slots and not failure:
                fold = waiting.popleft()
                log = out / f"fold{fold.number}.log" if threads else None
                running.append(Job(fold, package, slots.popleft(), log, threads))
            for job in [job for job in running if job.ended()]:
                running.remove(job)
                slots.append(job.gpus)
                incomplete[job.fold.number] = job.incomplete
                failure = failure or job.failure
            time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.stop()
    if failure:
        raise InputError(failure)
    return incomplete


class Job:
    """A running fold: its commands, one after the other."""

    def __init__(self, fold: Fold, package: str, gpus: str | None, log: Path | None, threads: int | None) -> None:
        self.fold, self.package, self.gpus, self.log, self.threads = fold, package, gpus, log, threads
        self.incomplete, self.failure = False, ""  # whether test.py left cases out; why the fold ended early
        self.steps = deque([("train", fold.train)] if fold.train is not None else [])
        self.steps.append(("test", fold.test))
        if log:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text("")
        self.process: subprocess.Popen[bytes] | None = None
        self._next()

    def stop(self) -> None:
        """Terminate the running command."""
        if self.process:
            self.process.terminate()
            self.process.wait()

    def ended(self) -> bool:
        """Whether the fold is done or has failed; starts the next step if there is one."""
        while self.process and self.process.poll() is not None:
            code, step = self.process.returncode, self.step
            self.process = None
            if code not in ((0, SKIPPED) if step == "test" else (0,)):
                reason = f": {last_line(self.log)} ({self.log})" if self.log else ", see above"
                self.failure = f"fold {self.fold.number}: {step}.py ended with exit code {code}{reason}"
                return True
            if step == "test":
                self.incomplete = code == SKIPPED
                if not self.incomplete:
                    write_json(self.fold.scored / MADE_FROM, made_from(self.fold))
            self._next()
        return self.process is None

    def _next(self):
        """Start the next step, unless an earlier run did it."""
        if self.steps and self.steps[0][0] == "test" and is_scored(self.fold):
            self.steps.clear()
        if not self.steps:
            return
        self.step, options = self.steps.popleft()
        print(f"fold {self.fold.number}: {self.step}{f', see {self.log}' if self.log else ''}", flush=True)
        environment = dict(os.environ)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus
        elif self.log:  # several folds share the CPU
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        with open(self.log, "a") if self.log else nullcontext() as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"{self.package}.{self.step}", *options], env=environment, stdout=stream,
                stderr=subprocess.STDOUT if stream else None, preexec_fn=die_with_parent)


def made_from(fold: Fold) -> dict[str, Any]:
    """What the scores of a fold depend on, as JSON values."""
    return {"checkpoints": [fingerprint(path) for path in fold.checkpoints], "options": list(map(str, fold.test)),
            "held_out": sorted(fold.held_out)}


def is_scored(fold: Fold) -> bool:
    """Whether the fold was scored completely with these same checkpoints, options and cases."""
    try:
        return read_json(fold.scored / MADE_FROM) == made_from(fold)
    except (InputError, OSError):
        return False


def last_line(log: Path) -> str:
    """The last line of a log file that is not blank."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def gpu_places(n_gpus: int, devices: int) -> list[str]:
    """The GPUs of each fold that can run at a time, `devices` of `n_gpus` for each: such as ["0,1", "2,3"]."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    names = names if len(names) >= n_gpus else list(map(str, range(n_gpus)))
    return [",".join(names[start:start + devices]) for start in range(0, n_gpus - devices + 1, devices)]
