"""Errors as the user sees them: one line for a bad file or setting, a traceback for a fault of the program."""
import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn, TypeVar

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # torch's wording
_stderr_lock = threading.RLock()  # all threads share standard error
Outcome = TypeVar("Outcome")


class InputError(Exception):
    """A file or setting that cannot be used. The message says which one, what is wrong with it and what to do."""


def one_line(error: BaseException) -> str:
    """The line shown for an `InputError` or an `OSError` (disk full, no permission, ...)."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {_advice(error.errno)}"
    # The message of an error in a DataLoader worker is its whole traceback.
    return " ".join(str(error).split("InputError: ")[-1].split())


@dataclass(frozen=True)
class Skipped:
    """The outcome of a case that had to be left out."""

    reason: str  # one line, for the user
    traceback: str = ""  # of a fault of the program; `told` prints it


def explained(error: BaseException) -> Skipped:
    """Any error as a reason to skip a case; with its traceback if neither a file nor a setting is to blame."""
    line = one_line(error)
    if isinstance(error, (InputError, OSError)):
        return Skipped(line)
    if any(word in line for word in LOST):
        return Skipped("another process of this run ended. See its own message, then restart them all with --resume")
    if isinstance(error, MemoryError) or "out of memory" in line:
        return Skipped(f"out of memory: {line or 'no more to be had'}. Use smaller batches, or more memory.")
    return Skipped(f"a fault of the program, see the traceback: {type(error).__name__}: {line}",
                   "".join(traceback.format_exception(error)))


def told(outcome: Outcome) -> Outcome:
    """Return the outcome of a case unchanged; if a fault made it `Skipped`, print the traceback to standard error."""
    if isinstance(outcome, Skipped):
        print(outcome.traceback, end="", file=sys.stderr)
    return outcome


def concerns_all(error: BaseException) -> bool:
    """Whether what stopped one case will stop every other: a full disk, or one that may not be written to."""
    return isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN)


def _advice(number):
    if number in FULL:
        return "Free some space, or name another disk."
    return "Change its permissions, or name another path." if number in FORBIDDEN else "Check the path."


@contextmanager
def silenced() -> Iterator[None]:
    """Discard what is written to standard error within the block, even by native code."""
    with _stderr_lock:
        stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.close(devnull)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the code that `main()` returns (None: 0). After an error print one line, preceded by the traceback if
    it is a fault of the program, and exit with 2."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the same command continues (train.py: add --resume)", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = told(explained(error)).reason
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))  # one of several processes: torchrun, srun
        print(f"{os.path.basename(sys.argv[0])}: error: {f'rank {rank}: ' if rank else ''}{line}", file=sys.stderr)
        sys.exit(2)
