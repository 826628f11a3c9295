"""Time and memory that a program takes, time that a call takes."""
import subprocess
import sys
import time
from typing import NamedTuple

# A process of its own waits for the program: the peak of its children is that program's alone.
WAIT = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=2).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


class Cost(NamedTuple):
    seconds: float  # wall-clock
    processor_seconds: float
    peak_gb: float


def cost(command):
    """The `Cost` of a process that ends well."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", WAIT, *map(str, command)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    code, processor_seconds, kilobytes = map(float, done.stdout.split())
    assert code == 0, done.stderr[-2000:]
    return Cost(seconds, processor_seconds, kilobytes / 1e6)


def measured(command):
    """(seconds, peak GB) of a process that ends well."""
    return cost(command)[::2]


def shortest(call, repeats):
    """Seconds of the shortest of some calls, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
