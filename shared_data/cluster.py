"""A loop over cases in worker processes, on this machine or on an existing cluster, by Dask distributed."""
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from typing import TypeVar
from urllib.request import urlopen

import SimpleITK as sitk

from shared_data.errors import InputError, Skipped, silenced

Case = TypeVar("Case")
Outcome = TypeVar("Outcome")

ENDED = Skipped("its worker process ended twice, probably for lack of memory. Use fewer workers, or give each "
                "more memory.")
# Our own messages say what the user has to know.
SILENCE = {"distributed.logging": dict.fromkeys(
    ("distributed", "distributed.client", "distributed.gc", "tornado.application", "asyncio"), "critical")}
SETTINGS = {  # of the cluster that this process starts
    # `finished` itself retries the case of a worker that ended.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.no-workers-timeout": "10 minutes",
    # Native code can keep a worker from answering for minutes, and a busy machine can take as long to start another.
    "distributed.scheduler.worker-ttl": None,
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    # Outcomes are small: there is nothing to spill, and a worker paused for lack of memory would stay paused.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,
    # Returning memory at once and requesting it again for the next batch costs a network a fifth of its time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}


def finished(work: Callable[[Case], Outcome], cases: Sequence[Case], workers: int, scheduler: str | None = None,
             memory_gb: float = 0.0) -> Iterator[tuple[int, Outcome | Skipped]]:
    """Yield (index of the case, work(case)) as they finish; errors of `work` are raised.

    A case whose worker process ended is repeated alone after all others; if that worker ends, too, its outcome is
    ENDED. scheduler: the address of a cluster, instead of `workers` processes on this machine, each of which may use
    memory_gb (0: its share).
    """
    import dask
    dask.config.set(SILENCE)
    import distributed  # noqa: F401  applies SILENCE and registers its defaults
    warnings.filterwarnings("ignore", module="distributed")
    with dask.config.set(SETTINGS), _client(workers, scheduler, memory_gb) as client:
        ended = []
        for index, outcome in _outcomes(client, work, enumerate(cases), len(cases) if scheduler else workers):
            if outcome is ENDED:
                ended.append(index)
            else:
                yield index, outcome
        yield from _outcomes(client, work, ((index, cases[index]) for index in sorted(ended)), 1)


def _outcomes(client, work, cases, at_once):
    """Yield (index, outcome) for (index, case) pairs. At most `at_once` cases are submitted at a time: then each of our
    own workers has one case, and none is blamed for another's."""
    from distributed import KilledWorker, as_completed
    cases, index_of, running = iter(cases), {}, as_completed(loop=client.loop)

    def submit(number):
        for index, case in islice(cases, number):
            future = client.submit(_in_one_thread, work, case, pure=False)
            index_of[future] = index
            running.add(future)

    submit(at_once)
    for future in running:
        try:
            outcome = future.result()
        except KilledWorker:  # perhaps in its next case, before this outcome was fetched
            outcome = ENDED
        submit(1)
        yield index_of.pop(future), outcome


def _in_one_thread(work, case):
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return work(case)


@contextmanager
def _client(workers, scheduler, memory_gb):
    """A client of the cluster at `scheduler`, or of one that this process starts."""
    from distributed import Client
    if scheduler:
        with _joined(scheduler) as client:
            yield client
        return
    environment = dict(os.environ)
    with _shielded_from_ctrl_c():
        cluster = _local_cluster(workers, memory_gb)
    with cluster, Client(cluster, set_as_default=False) as client:
        if importlib.util.find_spec("bokeh"):
            print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
        yield client
    os.environ.clear()  # Dask sets OMP_NUM_THREADS=1 for the workers in this process, too
    os.environ.update(environment)


@contextmanager
def _joined(scheduler):
    from distributed import CancelledError, Client
    from distributed.client import ClosedClientError
    from distributed.comm import CommClosedError
    try:
        client = Client(scheduler, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: no Dask scheduler answers. Start it, or correct the address."
                         ) from error
    try:
        with client:
            if not client.ncores():
                print(f"{scheduler} has no workers yet, waiting for them", file=sys.stderr)
            with suppress(OSError):  # without bokeh there is no dashboard, in spite of the link
                urlopen(client.dashboard_link, timeout=2).close()
                print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield client
    except (CancelledError, ClosedClientError, CommClosedError) as error:  # depending on what the client was doing
        raise InputError("the scheduler is gone. Start it again; the same command continues.") from error


def _local_cluster(workers, memory_gb):
    from distributed import LocalCluster
    start = partial(LocalCluster, n_workers=workers, threads_per_worker=1, memory_limit=memory_gb * 1e9 or 1 / workers,
                    dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
    with suppress(RuntimeError):  # a worker ended while it started: try once more
        return start()
    try:
        return start()
    except RuntimeError as error:
        raise InputError("worker processes end while they start, probably for lack of memory. Use fewer.") from error


@contextmanager
def _shielded_from_ctrl_c():
    """Threads and processes started in the block, and theirs, do not receive Ctrl-C: this process ends them."""
    with silenced():  # else a worker would start one, which complains when this process is killed
        resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # threads and processes inherit this
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
