"""Training learns, resumes after kill -9 as if nothing had been, and refuses what it cannot do."""
import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from lung_nodule_nasnet import train
from lung_nodule_nasnet import training as training_loop
from lung_nodule_nasnet.checkpoint import load_checkpoint
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.losses import gdl_wce_loss
from lung_nodule_nasnet.lungs import network_mask, network_slice
from lung_nodule_nasnet.nasnet_v2 import nasnet_gcn
from lung_nodule_nasnet.training import warn_of_lag
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_json, read_table, write_json
from shared_data.phantoms_chest import chest


def history(run_dir):
    return read_table(run_dir / "history.csv", [])


def same_state(one, other):
    (first, groups), (second, others) = load_checkpoint(one), load_checkpoint(other)
    return first["history"] == second["history"] and all(
        np.array_equal(a, b) for name in groups for a, b in zip(groups[name], others[name], strict=True))


def test_two_phantom_cases_are_learned_by_heart():
    keras.utils.set_random_seed(0)
    images, masks = [], []
    for seed in (1, 2):
        hu, nodules = chest(seed, (12, 96, 96))
        together = np.any(nodules, axis=0)
        k = int(together.sum((1, 2)).argmax())
        images.append(network_slice(np.maximum(hu[k], -1024), 64))
        masks.append(network_mask(together[k], 64))
    masks = np.stack(masks)
    truth = np.stack([~masks, masks], -1).astype(np.float32)
    network = nasnet_gcn(64, 96, 2, 0.1, 0.8)
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9)
    optimizer.build(network.trainable_variables)  # else the step is traced twice
    network.compile(optimizer, gdl_wce_loss, jit_compile=False)
    losses = [float(network.train_on_batch(np.stack(images)[..., None], truth)) for _ in range(60)]
    marked = np.array(network(np.stack(images)[..., None], training=False))[..., 1] > 0.5
    dice = 2 * (marked & masks).sum() / (marked.sum() + masks.sum())
    assert losses[-1] < 0.25 * losses[0] and dice > 0.85, (losses[0], losses[-1], dice)


def test_a_run_folder_holds_what_the_readme_says(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.json", "history.csv", "curves.png", "tensorboard", "last.npz", "best.npz"} <= names
    assert [row["epoch"] for row in history(run_dir)] == ["1", "2"]
    assert list((run_dir / "tensorboard").iterdir())
    state, groups = load_checkpoint(run_dir / "last.npz")
    assert set(groups) == {"weights", "optimizer"} and state["train_series"] and state["validation_series"]
    assert state["constants"]["CROP"] == [57, 457]
    with np.load(run_dir / "best.npz", allow_pickle=False) as file:
        assert not any(array.dtype == object for array in map(file.__getitem__, file.files))


def test_killed_and_resumed_equals_uninterrupted(training, run_dir, tmp_path):
    """`run_dir` holds the first two epochs of the same run."""
    command = [sys.executable, "-m", "lung_nodule_nasnet.train", "--run-dir", str(tmp_path / "killed")]
    killed = subprocess.Popen([*command, *training], start_new_session=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "last.npz").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(history(tmp_path / "killed")) == 1
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert history(tmp_path / "killed") == history(run_dir)
    assert same_state(tmp_path / "killed" / "last.npz", run_dir / "last.npz")


def test_a_run_is_neither_overwritten_nor_changed(training, run_dir, tmp_path):
    with pytest.raises(InputError, match="holds a run already. Add --resume"):
        train.main([*training, "--run-dir", str(run_dir)])
    with pytest.raises(InputError, match="lr 0.01 .now 0.1."):
        train.main(["--run-dir", str(run_dir), "--resume", "--lr", "0.1"])
    with pytest.raises(InputError, match="no last.npz to go on from"):
        train.main([*training, "--run-dir", str(tmp_path / "new"), "--resume"])
    with only_run_in(tmp_path), pytest.raises(InputError, match="another run is at work here"):
        train.main([*training, "--run-dir", str(tmp_path)])
    shutil.copytree(run_dir, tmp_path / "cut")
    (tmp_path / "cut" / "last.npz").write_bytes((run_dir / "last.npz").read_bytes()[:9000])
    with pytest.raises(InputError, match="last.npz: damaged"):
        train.main(["--run-dir", str(tmp_path / "cut"), "--resume", "--epochs", "3"])


def test_two_parts_of_the_cpu_finetune_a_checkpoint_at_the_authors_rate_while_workers_load(training, run_dir, tmp_path):
    best = run_dir / "best.npz"
    done = subprocess.run([sys.executable, "-m", "lung_nodule_nasnet.train", *training, "--devices", "2", "--workers",
                           "2", "--run-dir", str(tmp_path), "--epochs", "1", "--batch-size", "10", "--finetune",
                           str(best)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert float(history(tmp_path)[0]["loss"]) == pytest.approx(float(history(run_dir)[-1]["loss"]), rel=0.3)
    assert float(history(tmp_path)[0]["lr"]) == pytest.approx(1e-7)
    kernels = [load_checkpoint(path)[1]["weights"][0] for path in (best, tmp_path / "last.npz")]
    assert np.allclose(*kernels, atol=1e-4)


@pytest.mark.parametrize("options, message", [
    (["--lr", "0"], "--lr 0.0 must be positive"),
    (["--lr", "nan"], "--lr nan must be a finite number"),
    (["--devices", "2"], "--batch-size 9 must be divisible by --devices"),
    (["--size", "80", "--min-readers=2"], "--size .a setting of preprocess.py., --min-readers=2 .a setting of preproc"),
    (["--leave-out", "x"], "--leave-out .a setting of slice_idx.py."),
    (["--epochs", "0"], "--epochs 0 must be at least 1"),
    (["--encoder-filters", "100"], "--encoder-filters 100 must be a multiple of 96"),
    (["--bn-momentum", "1"], "--bn-momentum 1.0 must lie between 0 and 1"),
    (["--zoom", "0.7"], "--zoom 0.7 must lie from 0, below 0.5"),
    (["--device", "gpu"], "--device gpu: none on this machine"),
    (["--prepared-dir", "/nowhere"], "no prepared cases in it"),
])
def test_impossible_settings_are_refused(training, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train.main([*training, "--run-dir", str(tmp_path), *options])


def test_a_run_records_how_its_slices_were_prepared_but_has_a_seed_of_its_own(prepared, tmp_path):
    kept = read_json(prepared / "config.json")
    write_json(tmp_path / "config.json", {**kept, "min_readers": 3, "seed": 7})
    config = train.read_settings(["--prepared-dir", str(tmp_path), "--seed", "8"])
    assert (config.min_readers, config.size, config.seed) == (3, 64, 8)
    assert train.read_settings(["--prepared-dir", str(tmp_path)]).seed == Config.seed


@pytest.fixture
def without_steps(monkeypatch):
    """Function: epochs take no time and end with the validation Dice given."""

    def install(*dice):
        dice = iter(dice)
        monkeypatch.setattr("lung_nodule_nasnet.training.train_one_epoch", lambda *_: {"loss": 1.0})
        monkeypatch.setattr("lung_nodule_nasnet.training.validate", lambda *_: {
            "val_loss": 1.0, "val_dice": next(dice), "val_sensitivity": 0.0, "val_precision": 0.0})

    return install


def test_a_run_that_dies_before_its_last_report_writes_it_when_resumed(training, tmp_path, without_steps, monkeypatch):
    without_steps(0.1, 0.2, 0.2)
    report = training_loop.report

    def die_at_the_end(run_dir, history, board):
        if len(history) == 2:
            raise KeyboardInterrupt
        report(run_dir, history, board)

    monkeypatch.setattr(training_loop, "report", die_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        train.main([*training, "--run-dir", str(tmp_path)])
    monkeypatch.setattr(training_loop, "report", report)
    train.main(["--run-dir", str(tmp_path), "--resume"])
    assert [row["val_dice"] for row in history(tmp_path)] == ["0.1", "0.2"]


def test_resuming_needs_no_finetune_file_and_records_what_changed(training, run_dir, tmp_path, without_steps):
    without_steps(0.1, 0.2, 0.3)
    shutil.copy(run_dir / "best.npz", tmp_path / "authors.npz")
    run = ["--run-dir", str(tmp_path / "run")]
    train.main([*training, *run, "--finetune", str(tmp_path / "authors.npz")])
    (tmp_path / "authors.npz").unlink()
    train.main([*run, "--resume", "--epochs", "3"])
    assert len(history(tmp_path / "run")) == 3
    kept = read_json(tmp_path / "run" / "config.json")
    assert kept["epochs"] == 3 and kept["lr"] == train.FINETUNE_LR


def test_a_run_too_short_for_the_running_averages_is_told(capsys):
    warn_of_lag(17, Config(epochs=4))
    assert "--bn-momentum 0.9, or 589 epochs" in capsys.readouterr().out
    warn_of_lag(17, Config(epochs=4, bn_momentum=0.9))
    warn_of_lag(17, Config(epochs=589))
    assert not capsys.readouterr().out


def test_the_rate_falls_when_dice_stalls_but_not_before_it_has_left_0(training, tmp_path, monkeypatch, without_steps):
    without_steps(0, 0, 0.2, 0.1, 0.3)
    for slow in ("draw_curves", "save_checkpoint"):
        monkeypatch.setattr(f"lung_nodule_nasnet.training.{slow}", lambda *_, **__: None)
    train.main([*training, "--run-dir", str(tmp_path), "--epochs", "5", "--lr", "0.01", "--lr-patience", "1"])
    assert [round(float(row["lr"]), 6) for row in history(tmp_path)] == [0.01] * 4 + [0.001]
