"""Training learns, resumes after kill -9 as if nothing had been, and refuses what it cannot do."""
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from sepnet import train
from sepnet.authors_ini import read_ini
from sepnet.config import MEMBERS, Config
from sepnet.losses import AttentionExpDiceLoss
from sepnet.networks import SepNet
from sepnet.volumes import transformed
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.phantoms_head import head


def history(run_dir):
    return read_table(run_dir / "history.csv", [])


def same_weights(one, other):
    one, other = (torch.load(path, weights_only=True)["model"] for path in (one, other))
    return all(one[key].equal(other[key]) for key in one)


def test_two_phantom_cases_are_learned_by_heart():
    torch.manual_seed(0)
    cases = [head(seed, (16, 32, 32), (6.5, 6.5, 6.5)) for seed in (1, 2)]
    image = torch.stack([torch.from_numpy(transformed(hu, Config().control_points())) for hu, _ in cases])[:, None]
    large = {9: 1, 10: 2, 1: 3, 21: 4, 22: 5}  # organs of many voxels at this size
    labels = torch.stack([torch.from_numpy(organs) for _, organs in cases]).long()
    labels = torch.tensor([large.get(label, 0) for label in range(23)])[labels]
    network, loss_function = SepNet(6, 4, dropout=0, channel_dropout=0), AttentionExpDiceLoss(6)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(160):
        probabilities = network(image)
        loss = loss_function(probabilities, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    prediction = probabilities.argmax(1)
    hit = ((prediction == labels) & (labels > 0)).sum()
    assert losses[-1] < 0.1 * losses[0] and 2 * hit / ((prediction > 0).sum() + (labels > 0).sum()) > 0.9


def test_a_run_folder_holds_what_the_readme_says(runs):
    names = {path.name for path in (runs / "one").iterdir() if path.name[0] != "."}
    assert names == {"config.json", "history.csv", "curves.png", "tensorboard", "last.pt", "best.pt"}
    rows = history(runs / "one")
    assert [row["epoch"] for row in rows] == ["1", "2"] and float(rows[1]["loss"]) < float(rows[0]["loss"])


def test_killed_and_resumed_equals_uninterrupted(training, tmp_path):
    command = [sys.executable, "-m", "sepnet.train", "--run-dir", str(tmp_path / "killed")]
    options = [*training, "--epochs", "5", "--lr-every", "2"]
    train.main([*options, "--run-dir", str(tmp_path / "whole")])
    killed = subprocess.Popen([*command, *options], start_new_session=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "last.pt").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # into the next epoch
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert len(history(tmp_path / "killed")) < 5
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")
    for name in ("last.pt", "best.pt"):
        assert same_weights(tmp_path / "killed" / name, tmp_path / "whole" / name)


def test_a_run_is_neither_overwritten_nor_changed(training, runs, tmp_path):
    with pytest.raises(InputError, match="holds a run already. Add --resume"):
        train.main([*training, "--run-dir", str(runs / "one")])
    with pytest.raises(InputError, match="lr 0.001 .now 0.1."):
        train.main(["--run-dir", str(runs / "one"), "--resume", "--lr", "0.1"])
    with pytest.raises(InputError, match="no last.pt to go on from"):
        train.main([*training, "--run-dir", str(tmp_path / "new"), "--resume"])


def test_all_members_are_trained_and_a_stopped_ensemble_goes_on(training, tmp_path):
    options = [*training, "--epochs", "1", "--steps-per-epoch", "1", "--run-dir", str(tmp_path), "--all-members"]
    train.main(options)
    names = {f"{transform}_alpha{alpha:g}" for transform, alpha in MEMBERS}
    assert {path.parent.name for path in tmp_path.glob("*/best.pt")} == names and len(names) == 6
    shutil.rmtree(tmp_path / "multi_thresh_3_alpha1")
    train.main([*options, "--resume"])
    assert len(list(tmp_path.glob("*/best.pt"))) == 6


@pytest.mark.parametrize("options", [["--network", "unet"], ["--loss", "focal_dice"], ["--transform", "single_window"],
                                     ["--separate-direction", "coronal", "--normalisation", "paper"]])
def test_every_kind_of_run_trains(training, tmp_path, options):
    train.main([*training, "--epochs", "1", "--run-dir", str(tmp_path), *options])
    assert float(history(tmp_path)[0]["loss"]) > 0


def test_settings_come_from_an_ini_file_of_the_authors(training, tmp_path, capsys):
    (tmp_path / "train.txt").write_text(
        "[data]\ndata_shape = [16, 16, 16]\nroot_of_something = /x  # theirs\n[network]\nnet_type = Unet_Separate\n"
        "base_chns = 2\ndroprate = 0.3\nn_classes = 23\nseparate_direction = sagittal\n"
        "[training]\nlearning_rate = 2e-3\nloss_type = AttentionExpDiceLoss\nalpha = 1\n")
    settings = read_ini(tmp_path / "train.txt")
    assert settings == {"patch_zyx": (16, 16, 16), "network": "sepnet", "base_channels": 2, "dropout": 0.3,
                        "alpha": 1.0, "n_classes": 23, "separate_direction": "sagittal", "lr": 2e-3,
                        "loss": "attention_exp_dice"}
    assert "not used here: data.root_of_something" in capsys.readouterr().out
    train.main([*training, "--config", str(tmp_path / "train.txt"), "--epochs", "1", "--run-dir",
                str(tmp_path / "run")])
    assert '"separate_direction": "sagittal"' in (tmp_path / "run" / "config.json").read_text()
    for text, message in (("no section", "not an INI file"), ("[a]\nb = 1", "none of its keys is known here"),
                          ("[a]\nbatch_size = many", "batch_size = many does not fit --batch-size"),
                          ("[a]\nnet_type = VNet", "Valid: sepnet, unet")):
        (tmp_path / "bad.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_ini(tmp_path / "bad.txt")


@pytest.mark.parametrize("options, message", [
    (["--lr", "0"], "--lr 0.0 must be positive"), (["--alpha", "nan"], "--alpha nan must be a finite number"),
    (["--patch-zyx", "16", "50", "48"], "must be divisible by 8"),
    (["--crop-size", "48"], r"unknown option --crop-size \(a setting of preprocess.py\). Valid: --help --prepared-dir"),
    (["--data-dir", "/x", "--no-resample"], "--data-dir .a setting of preprocess.py., --no-resample .a setting of pre"),
    (["--epochs", "0"], "--epochs 0 must be at least 1"), (["--dropout", "1"], "--dropout 1.0 must be at least 0"),
    (["--loss", "hinge"], "invalid choice: 'hinge'"), (["--window-step", "17"], "must not exceed --window-slices"),
    (["--lr", "1e30"], "loss .* on patches of"), (["--config", "absent.txt"], "absent.txt")])
def test_impossible_settings_are_refused(training, tmp_path, options, message):
    with pytest.raises((InputError, FileNotFoundError), match=message):
        train.main([*training, "--run-dir", str(tmp_path), *options])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(training, tmp_path):
    with pytest.raises(InputError, match="--device cuda: none on this machine. Here: "):
        train.main([*training, "--device", "cuda", "--run-dir", str(tmp_path)])
