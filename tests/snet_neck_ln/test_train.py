"""Training learns, resumes after kill -9 as if nothing had been, and refuses what it cannot do."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared_data.errors import InputError
from shared_data.files import only_run_in, read_json, read_table
from shared_data.phantoms import neck
from snet_neck_ln import train
from snet_neck_ln.losses import snet_loss
from snet_neck_ln.networks import SNet
from snet_neck_ln.slices import window


def history(run_dir):
    return read_table(run_dir / "history.csv", [])


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return all(one[key].equal(other[key]) for key in one)


def test_two_phantom_cases_are_learned_by_heart():
    torch.manual_seed(0)
    cases = [neck(seed, (4, 48, 48), (2.5, 2.5, 3.0)) for seed in (1, 2)]
    image = torch.cat([torch.from_numpy(window(hu[1:3])).float() for hu, _ in cases])[:, None]
    mask = torch.cat([torch.from_numpy(nodes[1:3]) for _, nodes in cases])[:, None]
    network = SNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        outputs = network(image)
        loss = sum(snet_loss(outputs, mask).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    prediction = outputs[0] > 0
    dice = 2 * (prediction & (mask > 0)).sum() / (prediction.sum() + mask.sum())
    assert losses[-1] < 0.25 * losses[0] and dice > 0.9


def test_a_run_folder_holds_what_the_readme_says(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.json", "history.csv", "curves.png", "tensorboard", "last.pt"} <= names
    rows = history(run_dir)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert list((run_dir / "tensorboard").iterdir())


def test_killed_and_resumed_equals_uninterrupted(training, run_dir, tmp_path):
    command = [sys.executable, "-m", "snet_neck_ln.train", "--run-dir", str(tmp_path / "killed")]
    options = [*training, "--epochs", "4", "--checkpoint-every", "2"]
    train.main([*options, "--run-dir", str(tmp_path / "whole")])
    killed = subprocess.Popen([*command, *options], start_new_session=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "last.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # into the next epoch
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(history(tmp_path / "killed")) < 4
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    assert same_weights(tmp_path / "killed" / "last.pt", tmp_path / "whole" / "last.pt")
    names = [{path.name for path in (tmp_path / run).glob("*.pt")} for run in ("killed", "whole")]
    assert names[0] == names[1] >= {"last.pt", "epoch_002.pt", "epoch_004.pt"}


def test_a_longer_run_goes_on_from_a_shorter_one(training, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    train.main(["--run-dir", str(tmp_path / "run"), "--resume", "--epochs", "3"])
    assert [row["epoch"] for row in history(tmp_path / "run")] == ["1", "2", "3"]
    assert history(tmp_path / "run")[:2] == history(run_dir)
    assert read_json(tmp_path / "run" / "config.json")["epochs"] == 3
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]


def test_a_run_is_neither_overwritten_nor_changed(training, run_dir, tmp_path):
    with pytest.raises(InputError, match="holds a run already. Add --resume"):
        train.main([*training, "--run-dir", str(run_dir)])
    with pytest.raises(InputError, match="lr 0.001 .now 0.1."):
        train.main(["--run-dir", str(run_dir), "--resume", "--lr", "0.1"])
    with pytest.raises(InputError, match="no last.pt to go on from"):
        train.main([*training, "--run-dir", str(tmp_path / "new"), "--resume"])


def test_two_runs_in_one_folder_are_refused(training, tmp_path):
    with only_run_in(tmp_path), pytest.raises(InputError, match="another run is at work here"):
        train.main([*training, "--run-dir", str(tmp_path)])


def test_a_resumed_run_believes_the_checkpoint_not_an_edited_config(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    train.main(["--run-dir", str(tmp_path / "run"), "--resume", "--epochs", "2"])
    assert history(tmp_path / "run") == history(run_dir)
    (tmp_path / "run" / "last.pt").write_bytes((run_dir / "last.pt").read_bytes()[:9000])
    with pytest.raises(InputError, match="last.pt: damaged"):
        train.main(["--run-dir", str(tmp_path / "run"), "--resume", "--epochs", "3"])


def test_a_damaged_slice_in_a_worker_is_one_line(prepared, training, tmp_path):
    shutil.copytree(prepared, tmp_path / "prepared")
    for path in (tmp_path / "prepared").glob("P*/files/*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    done = subprocess.run([sys.executable, "-m", "snet_neck_ln.train", *training, "--prepared-dir",
                           str(tmp_path / "prepared"), "--workers", "1", "--run-dir", str(tmp_path / "run")],
                          capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert ".npz: damaged slice" in done.stderr and "Traceback" not in done.stderr


def test_it_stops_when_validation_no_longer_improves(training, tmp_path):
    train.main([*training, "--epochs", "9", "--stop-patience", "2", "--lr", "1e-12", "--run-dir", str(tmp_path)])
    assert len(history(tmp_path)) <= 3


def test_two_processes_train_on_a_cpu(training, tmp_path):
    done = subprocess.run([sys.executable, "-m", "snet_neck_ln.train", *training, "--devices", "2", "--run-dir",
                           str(tmp_path), "--epochs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(history(tmp_path)) == 1


def test_bf16_trains(training, tmp_path):
    train.main([*training, "--precision", "bf16-mixed", "--epochs", "1", "--run-dir", str(tmp_path)])
    assert float(history(tmp_path)[0]["loss"]) > 0


@pytest.mark.parametrize("options, message", [
    (["--val-fold", "7"], "no such fold"),
    (["--lr", "0"], "--lr 0.0 must be positive"),
    (["--lr", "nan"], "--lr nan must be a finite number"),
    (["--size", "50"], "--size 50 must be divisible by 4"),
    (["--epochs", "0"], "--epochs 0 must be at least 1"),
    (["--batch-size", "-1"], "--batch-size -1 must be at least 1"),
    (["--threshold", "1"], "--threshold 1.0 must lie between 0 and 1"),
    (["--lr", "1e30"], "loss .* on slices of"),
    (["--size", "100000"], "32..4096"),
    (["--data-dir", "/x", "--window-width-hu=350"],
     "--data-dir .a setting of data_process_lymph_node.py., --window-width-hu=350 .a setting of data_process_lymph"),
    (["--context-slices", "21"], "--context-slices can be 20 at most"),
    (["--seed", "4294967295"], "--seed 4294967295 less --epochs"),
])
def test_impossible_settings_are_refused(training, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train.main([*training, "--run-dir", str(tmp_path), *options])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(training, tmp_path):
    with pytest.raises(InputError, match="--device cuda: none on this machine. Here: "):
        train.main([*training, "--device", "cuda", "--run-dir", str(tmp_path)])
