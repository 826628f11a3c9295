"""Processes that do a part of a command's work."""
import ctypes
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def die_with_parent() -> None:
    """Called in a new process (`preexec_fn`): it ends when the one that started it is killed. Linux alone can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
