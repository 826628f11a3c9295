"""predict.py of every project: one CT, or a cohort; what a killed run has finished is not made again.

For a cohort the output folder gets what each CT alone would give, cases.csv with a row for every CT found, report.html
and, in .done/, a record of how each result was made.
"""
import json
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from tqdm import tqdm

from shared_data.cohort import each_case, fingerprint, printable, say_skipped
from shared_data.ct_cases import Case, find_cases, is_list
from shared_data.errors import InputError, Skipped, concerns_all, explained, told
from shared_data.files import only_run_in, read_json, write_json
from shared_data.named_types import Row
from shared_data.settings import CLUSTER
from shared_data.volume import SUFFIXES, read_ct, without_suffix
from shared_results.cohort_report import write_cohort
from shared_results.outputs import (
    Prediction,
    ResultOptions,
    check_results,
    viewer_content,
    viewer_path,
    write_prediction,
)
from shared_results.scoring import kept, stamp_of
from shared_results.stopwatch import Stopwatch
from shared_results.viewer import SOFT_TISSUE_HU

# Options that do not affect how a CT is segmented.
ELSEWHERE = ("input", "output", "series", "workers", "viewer", *CLUSTER)


@dataclass(frozen=True)
class Method:
    """What a project supplies. The functions belong to a module, so that other processes can import them."""

    name: str  # in DICOM objects
    load: Callable[[Any], Any]  # options -> `loaded`: the network on its device, and what it needs
    segment: Callable[[Any, sitk.Image, Any, Stopwatch], Prediction]  # (loaded, CT as read, options of the CT, watch)
    window_hu: tuple[float, float] = SOFT_TISSUE_HU  # in which the viewer opens


@dataclass(frozen=True)
class Job:
    """A case of the cohort, finished or still to be segmented."""

    case: Case
    options: ResultOptions  # of this case only
    made_from: dict[str, Any]  # its files, the network's files and the options, as plain JSON values

    @property
    def record(self) -> Path:
        return self.options.output.parent / ".done" / f"{self.case.name}.json"


def predict(options: ResultOptions, method: Method) -> int:
    """Segment what --input names and return the exit code."""
    if not options.input.exists():
        raise InputError(f"{options.input}: no such file or folder.")
    may_be_several = is_list(options.input) or options.input.is_dir()
    to_one_file = options.output.name.lower().endswith(SUFFIXES)
    if may_be_several and not to_one_file:
        return _predict_cohort(options, method)
    if is_list(options.input) or (may_be_several and _holds_only_volumes(options.input)):
        raise InputError(f"{options.output}: a single file for several CTs. Name a folder.")
    if options.format:
        raise InputError(f"--format {options.format}: for one CT the name of the output sets the format. Leave it out.")
    _predict_one(options, method)
    return 0


def _holds_only_volumes(folder):
    """Whether the files of a folder are volumes, not the slices of a DICOM series."""
    names = [path.name.lower() for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    return bool(names) and all(name.endswith(SUFFIXES) for name in names)


def _predict_one(options, method):
    check_results(options)
    loaded = method.load(options)
    watch = Stopwatch(options.input.name)
    ct = read_ct(options.input, options.series)
    watch.ends("read")
    prediction = method.segment(loaded, ct, options, watch)
    watch.ends("finish")
    for warning in prediction.warnings:
        print(f"note: {warning}")
    content = viewer_content(prediction, ct, options, method.window_hu)
    write_prediction(prediction, content, options, method.name, watch)
    print(f"{prediction.found}: {options.output}")


def _predict_cohort(options, method):
    if options.series:
        raise InputError(f"--series {options.series}: chooses one CT, but {options.output} is a folder for several. "
                         "Leave it out, or name a file.")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: not a folder. Name another.")
    cases = find_cases(options.input, options.output)
    with only_run_in(options.output, "", ".done", *filter(None, (options.rtstruct, options.seg))):
        jobs = [_job(case, options) for case in cases]
        outcomes = {job.case.name: row for job in jobs if (row := _finished(job))}
        n_before = len(outcomes)
        unfinished = [job for job in jobs if job.case.name not in outcomes]
        for job, outcome in _outcomes(unfinished, options, method) if unfinished else ():
            outcomes[job.case.name] = outcome
        return _summarise(cases, outcomes, n_before, options, method)


def _job(case, options):
    options = options.for_case(case)
    made_from = {"input": printable(str(case.input)),
                 "files": [fingerprint(file) for file in case.files or (case.input,)],
                 "networks": [fingerprint(path) for path in options.networks()],
                 "options": {name: value for name, value in asdict(options).items() if name not in ELSEWHERE}}
    return Job(case, options, json.loads(json.dumps(made_from, default=str)))


def _finished(job):
    """The row of a case whose results exist and were made from the same files and options; otherwise None."""
    try:
        record = read_json(job.record)
        complete = all((job.record.parent / name).exists() for name in record["files"])
        return record["row"] if complete and record["made_from"] == job.made_from else None
    except (InputError, KeyError, TypeError):
        return None


def _outcomes(jobs, options, method):
    """Iterate over (job, its row or `Skipped`)."""
    if not (options.workers or options.scheduler):
        bar = tqdm(_overlapped(jobs, options, method), total=len(jobs), unit="CT", disable=None)
        return zip(jobs, map(told, bar))
    work = partial(predict_job, options=options, method=method, stamp=stamp_of(options.networks()))
    return each_case(work, jobs, options.workers, "CT", options.scheduler, options.worker_memory_gb)


def predict_job(job: Job, options: ResultOptions, method: Method, stamp: str) -> Row | Skipped:
    """The outcome of a job; the process keeps the network for the next one."""
    loaded = kept(method.load, options, stamp)
    return _write(_segment(_read(job), job, method, loaded), job, method)


def _overlapped(jobs, options, method):
    """Outcomes in order; while one CT is segmented, the next is read and the one before is written."""
    read = _one_ahead(_read, ((job,) for job in jobs))
    loaded = method.load(options)
    segmented = ((_segment(ct_and_watch, job, method, loaded), job, method) for job, ct_and_watch in zip(jobs, read))
    return _one_ahead(_write, segmented)


def _one_ahead(work, calls):
    """Yield work(*arguments) for the tuples `calls`, in order; a thread is at work on the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        pending: deque[Future[Any]] = deque()
        for arguments in calls:
            pending.append(thread.submit(work, *arguments))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _or_skipped(work):
    """`work`, but it returns `Skipped` when it fails, and passes on a first argument that is `Skipped`. An error that
    every case would meet, such as a full disk, is raised."""
    @wraps(work)
    def guarded(previous, *others):
        if isinstance(previous, Skipped):
            return previous
        try:
            return work(previous, *others)
        except Exception as error:  # whatever goes wrong with one CT, the others are finished
            if concerns_all(error):
                raise
            return explained(error)
    return guarded


@_or_skipped
def _read(job):
    if job.record.exists():  # outdated results, of another CT or network
        stem = without_suffix(job.options.output)
        for path in (job.record, job.options.output, Path(f"{stem}.json"), Path(f"{stem}_overlay.png"),
                     viewer_path(job.options.output)):
            path.unlink(missing_ok=True)
    if job.case.problem:
        raise InputError(job.case.problem)
    watch = Stopwatch(disable=True)
    check_results(job.options, job.case.files)
    ct = read_ct(job.case.input, job.case.series, job.case.files)
    watch.ends("read")
    return ct, watch


@_or_skipped
def _segment(ct_and_watch, job, method, loaded):
    ct, watch = ct_and_watch
    watch.goes_on()
    prediction = method.segment(loaded, ct, job.options, watch)
    watch.ends("finish")
    if ct.HasMetaDataKey("note"):
        prediction.warnings.append(ct.GetMetaData("note"))
    if sitk.GetArrayViewFromImage(ct).min() >= 0:
        prediction.warnings.append("no voxel below 0 HU: a mask among the CTs?")
    content = viewer_content(prediction, ct, job.options, method.window_hu)
    watch.ends("write")
    return prediction, content, watch


@_or_skipped
def _write(segmented, job, method):
    prediction, content, watch = segmented
    watch.goes_on()
    paths = write_prediction(prediction, content, job.options, method.name, watch, job.case.files)
    row = {**prediction.row, "seconds": watch.seconds["total"], "warnings": "; ".join(prediction.warnings)}
    write_json(job.record, {"row": row, "files": [os.path.relpath(path, job.record.parent) for path in paths],
                            "made_from": job.made_from})
    return row


def _summarise(cases, outcomes, n_before, options, method):
    """Write cases.csv and the report; return the exit code."""
    rows, failed = [], {}
    for case in cases:
        outcome = outcomes[case.name]
        if isinstance(outcome, Skipped):
            failed[case.name] = outcome.reason
            outcome = {"seconds": None, "warnings": ""}
        reason = failed.get(case.name, "").encode(errors="backslashreplace").decode()
        rows.append({"case": case.name, "status": "failed" if case.name in failed else "done", "reason": reason,
                     **outcome, "input": printable(str(case.input)), "series": case.series})
    done = f"{len(cases) - len(failed)} of {len(cases)} CTs segmented"
    done += f", {n_before} of them before" if n_before else ""
    write_cohort(options.output, f"{method.name}: {options.input.name}", [done], rows)
    print(f"{done}: {options.output / 'report.html'}")
    return say_skipped(failed)
