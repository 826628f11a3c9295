"""What is wrong with a file or a setting reaches the user as one line, a fault of the program with its traceback."""
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
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # as torch says it
_silence = threading.RLock()  # standard error is one for all threads
Outcome = TypeVar("Outcome")


class InputError(Exception):
    """A file or setting that cannot be used. The message: which, what is wrong, what to do."""


def one_line(error: BaseException) -> str:
    """The line shown for an `InputError` or an `OSError` (disk full, no permission, ...)."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {_advice(error.errno)}"
    # A DataLoader worker hands on the whole traceback as the message.
    return " ".join(str(error).split("InputError: ")[-1].split())


@dataclass(frozen=True)
class Skipped:
    """What comes of a case that has to be left out."""

    reason: str  # one line, for the user
    traceback: str = ""  # of a fault of the program; somebody has to print it


def explained(error: BaseException) -> Skipped:
    """`one_line` of any error as a reason; with the traceback, where neither a file nor a setting is to blame."""
    line = one_line(error)
    if isinstance(error, (InputError, OSError)):
        return Skipped(line)
    if any(word in line for word in LOST):
        return Skipped("another process of this run ended. Its own message says why; start all again, with --resume")
    if isinstance(error, MemoryError) or "out of memory" in line:
        return Skipped(f"out of memory: {line or 'no more to be had'}. Give it smaller batches, or more memory.")
    return Skipped(f"a fault of the program, see the traceback: {type(error).__name__}: {line}",
                   "".join(traceback.format_exception(error)))


def told(outcome: Outcome) -> Outcome:
    """The same outcome of a case; the traceback of one that was skipped for a fault is printed on standard error."""
    if isinstance(outcome, Skipped):
        print(outcome.traceback, end="", file=sys.stderr)
    return outcome


def concerns_all(error: BaseException) -> bool:
    """Whether an error of one case will come with every other: a disk that is full, or may not be written to."""
    return isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN)


def _advice(number):
    if number in FULL:
        return "Free some space, or name another disk."
    return "Change its permissions, or name another path." if number in FORBIDDEN else "Check the path."


@contextmanager
def silenced() -> Iterator[None]:
    """Nothing written on standard error within the block is seen, not even by native code."""
    with _silence:
        shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            os.close(nowhere)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what `main()` returns (None is 0). An error: one line, exit code 2; the traceback before it, where it
    is a fault of the program."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on (train.py: add --resume)", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = told(explained(error)).reason
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))  # one of several processes: torchrun, srun
        print(f"{os.path.basename(sys.argv[0])}: error: {f'rank {rank}: ' if rank else ''}{line}", file=sys.stderr)
        sys.exit(2)
