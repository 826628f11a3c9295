"""What a program costs."""
import subprocess
import sys
import time

# A process of its own waits for the program: the peak of its children is that program's alone.
WAIT = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=2).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measured(command):
    """(seconds, peak GB) of a process that ends well."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", WAIT, *map(str, command)], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    code, kilobytes = map(int, done.stdout.split())
    assert code == 0, done.stderr[-2000:]
    return seconds, kilobytes / 1e6
