"""One scheduler with two workers in two network namespaces, as on two machines, writes the same files as one process,
even when one of the machines is unplugged midway. Needs root and `ip netns`.

    python -m tests.bench.cluster_namespaces
"""
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from shared_data.phantoms import write_neck_cohort

BRIDGE, SCHEDULER = "bench16", "10.116.0.1"
MACHINES = {"bench16a": "10.116.0.2", "bench16b": "10.116.0.3"}
DASK = [sys.executable, "-m", "dask"]


def ip(*words):
    subprocess.run(["ip", *words], check=True)


@contextmanager
def network():
    """A bridge, and a namespace at each end of a cable to it."""
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{SCHEDULER}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for name, address in MACHINES.items():
            ip("netns", "add", name)
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", name, "master", BRIDGE, "up")
            for words in (("addr", "add", f"{address}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up")):
                ip("-n", name, *words)
        yield
    finally:
        for words in (*(("netns", "del", name) for name in MACHINES),
                      *(("link", "del", name) for name in (*MACHINES, BRIDGE))):
            subprocess.run(["ip", *words], stderr=subprocess.DEVNULL)


@contextmanager
def cluster(folder):
    with open(folder / "dask.log", "w") as log:
        common = {"cwd": folder, "stdout": log, "stderr": log}
        started = [subprocess.Popen([*DASK, "scheduler", "--host", SCHEDULER, "--port", "8786", "--no-dashboard"],
                                    **common)]
        started += [subprocess.Popen(["ip", "netns", "exec", name, *DASK, "worker", f"tcp://{SCHEDULER}:8786",
                                      "--nthreads", "1", "--no-nanny", "--no-dashboard"], **common)
                    for name in MACHINES]
        try:
            time.sleep(20)
            yield
        finally:
            for process in started:
                process.kill()
                process.wait()


def prepare(raw, out, *options):
    return subprocess.Popen([sys.executable, "-m", "snet_neck_ln.process_data.data_process_lymph_node", "--data-dir",
                             str(raw), "--prepared-dir", str(out), *options], stdout=subprocess.DEVNULL)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in ("config.json", ".lock")}


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_neck_cohort(folder / "raw", patients=10, size=192, slices=40)
        start = time.perf_counter()
        assert prepare(folder / "raw", folder / "here", "--workers", "0").wait() == 0
        print(f"one process: {time.perf_counter() - start:.1f} s")
        expected = tree(folder / "here")
        for unplug in (None, "bench16b"):
            with network(), cluster(folder):
                out, start = folder / f"out {unplug}", time.perf_counter()
                client = prepare(folder / "raw", out, "--scheduler", f"tcp://{SCHEDULER}:8786")
                while unplug and not list(out.glob("*/case.json")):
                    time.sleep(0.02)
                if unplug:
                    ip("link", "set", unplug, "down")
                assert client.wait() == 0 and tree(out) == expected
                print(f"two namespaces{', one unplugged in the middle' if unplug else ''}: "
                      f"{time.perf_counter() - start:.1f} s, the same {len(expected)} files")


if __name__ == "__main__":
    main()
