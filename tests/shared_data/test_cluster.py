"""Preparing a cohort on a cluster: a worker, the client, the scheduler are killed, and nothing is lost."""
import signal
import socket
import subprocess
import sys
import time

import pytest

from shared_data.phantoms import write_neck_cohort


@pytest.fixture
def cluster(tmp_path):
    """(address, scheduler, two workers), started as on several machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    address = f"127.0.0.1:{place[1]}"
    common = {"cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--host", f"tcp://{address}", "--no-dashboard"], **common)
    workers = [subprocess.Popen([*dask, "worker", f"tcp://{address}", "--nthreads", "1", "--no-nanny",
                                 "--no-dashboard"], **common) for _ in range(2)]
    while scheduler.poll() is None:
        try:
            socket.create_connection(place).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"tcp://{address}", scheduler, workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name not in ("config.json", ".lock")}


@pytest.fixture
def prepare(tmp_path):
    """Starts S-Net's preparation into a folder; a function."""
    write_neck_cohort(tmp_path / "raw", patients=6, size=128, slices=40)
    script = [sys.executable, "-m", "snet_neck_ln.process_data.data_process_lymph_node", "--data-dir",
              str(tmp_path / "raw")]
    return lambda out, *options: subprocess.Popen([*script, "--prepared-dir", str(out), *options], text=True,
                                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_in_the_middle(victim, client, out):
    """(exit code, standard error) of a client; `victim` gets SIGKILL when its first case is there."""
    while not list(out.glob("*/case.json")):
        assert client.poll() is None, client.communicate()[1]
        time.sleep(0.01)
    assert not (out / "slices.csv").exists()
    victim.kill()
    said = client.communicate(timeout=120)[1]
    return client.returncode, said


def test_kills_of_a_worker_the_client_and_the_scheduler(cluster, prepare, tmp_path):
    address, scheduler, workers = cluster
    outs = {name: tmp_path / name for name in ("here", "worker", "client", "scheduler")}
    assert prepare(outs["here"], "--workers", "0").wait() == 0

    there = ("--scheduler", address)
    code, said = kill_in_the_middle(workers[0], prepare(outs["worker"], *there), outs["worker"])
    assert code == 0 and "distributed" not in said and "Traceback" not in said
    client = prepare(outs["client"], *there)
    assert kill_in_the_middle(client, client, outs["client"])[0] == -signal.SIGKILL
    assert prepare(outs["client"], *there).wait() == 0
    code, said = kill_in_the_middle(scheduler, prepare(outs["scheduler"], *there), outs["scheduler"])
    assert code == 2 and said.splitlines()[-1].endswith("the same command continues.")
    assert prepare(outs["scheduler"], "--workers", "0").wait() == 0

    before = tree(outs["here"])
    for out in outs.values():
        now = tree(out)
        assert now.keys() == before.keys() and not [name for name in now if now[name] != before[name]], out
    client = prepare(tmp_path / "none", *there)
    assert client.wait() == 2 and "no Dask scheduler answers" in client.communicate()[1]
