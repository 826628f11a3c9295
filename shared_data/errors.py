"""What is wrong with a file or a setting reaches the user as one line, a fault of the program with its traceback."""
import errno
import os
import sys
import threading
import traceback
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")  # as torch says it
_silence = threading.RLock()  # standard error is one for all threads


class InputError(Exception):
    """A file or setting that cannot be used. The message: which, what is wrong, what to do."""


def one_line(error):
    """The line shown for an `InputError` or an `OSError` (disk full, no permission, ...)."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {_advice(error.errno)}"
    # A DataLoader worker hands on the whole traceback as the message.
    return " ".join(str(error).split("InputError: ")[-1].split())


class Fault(str):
    """The line of an error that is a fault of the program, with the error's `traceback`, which somebody has to print.
    """

    traceback = ""


def explained(error):
    """`one_line` of any error; a `Fault` where neither a file nor a setting is to blame."""
    line = one_line(error)
    if isinstance(error, (InputError, OSError)):
        return line
    if any(word in line for word in LOST):
        return "another process of this run ended. Its own message says why; start all again, with --resume"
    if isinstance(error, MemoryError) or "out of memory" in line:
        return f"out of memory: {line or 'no more to be had'}. Give it smaller batches, or more memory."
    fault = Fault(f"a fault of the program, see the traceback: {type(error).__name__}: {line}")
    fault.traceback = "".join(traceback.format_exception(error))
    return fault


def told(line):
    """The same line; the traceback of a `Fault` is printed on standard error."""
    if isinstance(line, Fault):
        print(line.traceback, end="", file=sys.stderr)
    return line


def concerns_all(error):
    """Whether an error of one case will come with every other: a disk that is full, or may not be written to."""
    return isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN)


def _advice(number):
    if number in FULL:
        return "Free some space, or name another disk."
    return "Change its permissions, or name another path." if number in FORBIDDEN else "Check the path."


@contextmanager
def silenced():
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


def run_script(main):
    """Exit with what `main()` returns (None is 0). An error: one line, exit code 2; the traceback before it, where it
    is a fault of the program."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on (train.py: add --resume)", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        line = told(explained(error))
        rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))  # one of several processes: torchrun, srun
        print(f"{os.path.basename(sys.argv[0])}: error: {f'rank {rank}: ' if rank else ''}{line}", file=sys.stderr)
        sys.exit(2)
