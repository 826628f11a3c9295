"""Child processes that end with their parent."""
import ctypes
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def die_with_parent() -> None:
    """For `preexec_fn`: the new process ends when the one that started it is killed. Does nothing outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
