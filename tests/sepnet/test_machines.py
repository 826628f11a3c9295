"""Two machines, as far as one can be two: processes started apart meet at a port, as under srun or torchrun."""
import os
import socket
import subprocess
import sys
import time

import pytest

from sepnet import train
from shared_data.files import read_table


@pytest.fixture
def options(training):
    """One update in an epoch; a loss that is a mean over samples, and no dropout: nothing hangs on who has which."""
    return [*training, "--steps-per-epoch", "1", "--loss", "soft_dice", "--undrawn", "original", "--dropout", "0",
            "--channel-dropout", "0", "--precision", "32-true"]


def losses(run_dir):
    return [float(row["loss"]) for row in read_table(run_dir / "history.csv", [])]


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def start(command, **env):
    return subprocess.Popen([sys.executable, *command], env={**os.environ, **env}, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def start_by_srun(options):
    """A process for each machine, told of the others by what srun sets."""
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2", "SLURM_NTASKS": "2",
           "SLURM_NTASKS_PER_NODE": "1", "SLURM_NODELIST": "localhost", "SLURM_LOCALID": "0",
           "MASTER_PORT": str(free_port())}
    return [start(["-m", "sepnet.train", *options, "--num-nodes", "2"], **job, SLURM_PROCID=rank, SLURM_NODEID=rank)
            for rank in "01"]


def start_by_torchrun(options):
    meeting = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost",
               "--master-port", str(free_port())]
    return [start([*meeting, "--node-rank", rank, "-m", "sepnet.train", *options]) for rank in "01"]


def test_two_machines_train_as_one_process_and_go_on_when_one_was_lost(options, tmp_path):
    survivor, lost = start_by_srun([*options, "--epochs", "500", "--run-dir", str(tmp_path / "two")])
    while not (tmp_path / "two" / "last.pt").exists():
        assert survivor.poll() is None and lost.poll() is None
        time.sleep(0.1)
    lost.kill()
    stderr = survivor.communicate(timeout=60)[1].splitlines()
    lost.communicate()
    assert survivor.returncode == 2 and "rank 0: another process of this run" in stderr[-1]

    epochs = str(len(losses(tmp_path / "two")) + 2)
    resumed = start_by_torchrun(["--run-dir", str(tmp_path / "two"), "--resume", "--epochs", epochs])
    for machine in resumed:
        assert machine.wait(120) == 0, machine.communicate()[1]
    train.main([*options, "--epochs", epochs, "--run-dir", str(tmp_path / "one")])
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two[0] == pytest.approx(one[0], rel=1e-5) and two == pytest.approx(one, rel=1e-4)  # Adam enlarges rounding
