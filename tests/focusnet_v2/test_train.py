"""Training learns, every stage resumes after kill -9 as if nothing had been, and the chain skips what is finished."""
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from focusnet_v2 import adv_train, engine, train, train_autoencoder, train_backbone, train_backbone_heatmap, train_SOL
from focusnet_v2.adv_train import Adversarial
from focusnet_v2.config import STAGES, Config, Run, Train
from focusnet_v2.dataset import load_cases
from focusnet_v2.grids import cut, seen_box, unit
from focusnet_v2.inference import window_starts
from focusnet_v2.losses import backbone_loss, merge_undrawn
from focusnet_v2.networks import SNet
from focusnet_v2.train_autoencoder import Autoencoder
from focusnet_v2.train_backbone import Backbone, sgd_rate
from focusnet_v2.train_backbone_heatmap import Joint
from focusnet_v2.train_SOL import SOL
from shared_data.errors import InputError
from shared_data.files import read_table
from shared_data.phantoms_head import head
from shared_data.settings import load_config, names_of
from shared_data.volume import write_volume
from shared_torch.checkpoints import load_strictly
from tests.faults.attempt import attempt

CHAIN = ("backbone", "SOL", "autoencoder", "adversarial")
SCRIPTS = {"backbone": (train_backbone, Backbone), "SOL": (train_SOL, SOL),
           "autoencoder": (train_autoencoder, Autoencoder), "adversarial": (adv_train, Adversarial)}
ALL_SCRIPTS = [*SCRIPTS.values(), (train_backbone_heatmap, Joint)]


def history(folder):
    return read_table(folder / "history.csv", [])


def weights(path, name="model"):
    return torch.load(path, weights_only=True)[name]


def same_weights(one, other):
    states = [torch.load(path, weights_only=True) for path in (one, other)]
    assert states[0].keys() == states[1].keys()
    return all(tensor.equal(states[1][name][key]) for name in {"model", "critic"} & states[0].keys()
               for key, tensor in states[0][name].items())


def test_two_phantom_cases_are_learned_by_heart():
    torch.manual_seed(0)
    cases = [head(seed, (8, 32, 32), (6.5, 6.5, 13)) for seed in (1, 2)]
    image = torch.stack([torch.from_numpy(unit(hu)) for hu, _ in cases])[:, None]
    large = {9: 1, 10: 2, 1: 3, 21: 4, 22: 5}  # organs of many voxels at this size
    labels = torch.stack([torch.from_numpy(organs) for _, organs in cases]).long()
    labels = torch.tensor([large.get(label, 0) for label in range(23)])[labels]
    network, alpha = SNet(6, 8), (0.5, 1, 1, 1, 1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(90):
        logits = network(image)
        loss = sum(backbone_loss(logits, labels, alpha).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    prediction = logits.argmax(1)
    hit = ((prediction == labels) & (labels > 0)).sum()
    assert losses[-1] < 0.2 * losses[0] and 2 * hit / ((prediction > 0).sum() + (labels > 0).sum()) > 0.9


def test_the_run_folder_holds_what_the_readme_says(run_dir):
    for stage in CHAIN:
        names = {path.name for path in (run_dir / stage).iterdir() if path.name[0] != "."}
        assert names == {"config.json", "history.csv", "curves.png", "tensorboard", "last.pt", "best.pt"}
        rows = history(run_dir / stage)
        assert [row["epoch"] for row in rows] == ["1", "2"] and all(float(row["loss"]) > -1 for row in rows)
    assert float(history(run_dir / "SOL")[1]["loss"]) < float(history(run_dir / "SOL")[0]["loss"])
    assert torch.load(run_dir / "SOL" / "best.pt", weights_only=True)["constants"]["HEAD_MM"] == 250
    expected = {"val_dice", "val_centre_mm", "val_small_dice", "focal", "code", "critic_distance"}
    assert expected <= history(run_dir / "adversarial")[0].keys()


def test_frozen_parts_stay_as_they_were(run_dir):
    backbone, sol, last = (weights(run_dir / stage / "best.pt") for stage in ("backbone", "SOL", "adversarial"))
    assert all(tensor.equal(sol[f"backbone.{key}"]) for key, tensor in backbone.items())  # statistics included
    assert all(tensor.equal(last[key]) for key, tensor in sol.items())
    assert any(key.startswith("branches.2.") for key in last)


def test_the_authors_drift_of_the_statistics_is_an_option(training, of_stage, run_dir, tmp_path):
    shutil.copytree(run_dir / "backbone", tmp_path / "backbone")
    train_SOL.main([*of_stage(SOL, training), "--run-dir", str(tmp_path), "--original-bn-drift"])
    backbone, sol = weights(tmp_path / "backbone" / "best.pt"), weights(tmp_path / "SOL" / "last.pt")
    drifted = {key for key, tensor in backbone.items() if not tensor.equal(sol[f"backbone.{key}"])}
    assert drifted and all("running" in key or "num_batches" in key for key in drifted)


def test_finished_stages_are_not_run_again_and_more_epochs_go_on(training, run_dir, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "run")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")}
    options = [*training, "--run-dir", str(tmp_path / "run")]
    train.main(options)
    assert capsys.readouterr().out.count("finished before") == 4
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.pt")}
    train.main([*options, "--ae-epochs", "3"])
    assert len(history(tmp_path / "run" / "autoencoder")) == 3 and capsys.readouterr().out.count("finished before") == 3


def test_the_chain_killed_in_every_stage_equals_the_uninterrupted(training, tmp_path):
    """Killed as soon as a stage has written its first epoch, four times; then let go to the end."""
    epochs = [f"--{name}-epochs" for name in ("backbone", "sol", "ae", "adv")]
    options = [*training, *(word for name in epochs for word in (name, "3")), "--width", "8"]
    train.main([*options, "--run-dir", str(tmp_path / "whole")])
    options += ["--run-dir", str(tmp_path / "killed")]
    for stage in CHAIN:
        table = tmp_path / "killed" / stage / "last.pt"
        killed = attempt("focusnet_v2.train", options, kill_when=lambda _, table=table: table.exists())
        assert killed.code == -signal.SIGKILL
        assert len(history(table.parent)) < 3
    assert attempt("focusnet_v2.train", options).code == 0
    for stage in CHAIN:
        assert history(tmp_path / "killed" / stage) == history(tmp_path / "whole" / stage)
        for name in ("last.pt", "best.pt"):
            assert same_weights(tmp_path / "killed" / stage / name, tmp_path / "whole" / stage / name)


def test_each_stage_has_a_script_that_resumes(training, of_stage, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    for stage, (script, what) in SCRIPTS.items():
        prefix = {"backbone": "backbone", "SOL": "sol", "autoencoder": "ae", "adversarial": "adv"}[stage]
        with pytest.raises(InputError, match=f"{stage}: holds a run already. Add --resume"):
            script.main([*of_stage(what, training), "--run-dir", str(tmp_path / "run")])
        script.main(["--run-dir", str(tmp_path / "run"), "--resume", f"--{prefix}-epochs", "3"])
        assert len(history(tmp_path / "run" / stage)) == 3


def test_the_joint_stage_killed_equals_the_uninterrupted(training, of_stage, tmp_path):
    options = [*training, "--localisation", "joint", "--joint-epochs", "3", "--run-dir"]
    train_backbone_heatmap.main(of_stage(Joint, [*options, str(tmp_path / "whole")]))
    stage = tmp_path / "killed" / "backbone_heatmap"
    killed = attempt("focusnet_v2.train", [*options, str(tmp_path / "killed")],
                     kill_when=lambda _: (stage / "last.pt").exists())
    assert killed.code == -signal.SIGKILL and len(history(stage)) < 3
    train_backbone_heatmap.main(["--run-dir", str(tmp_path / "killed"), "--resume"])
    assert history(stage) == history(tmp_path / "whole" / stage.name)
    assert same_weights(stage / "last.pt", tmp_path / "whole" / stage.name / "last.pt")


def test_localisation_together_with_the_main_network(training, of_stage, tmp_path):
    options = [*training, "--run-dir", str(tmp_path), "--localisation", "joint", "--no-shape-constraint",
               "--sos-inputs", "all", "--textbook-focal", "--affine-order", "original", "--heatmap-offsets", "original"]
    train_backbone_heatmap.main(of_stage(Joint, options))
    before = weights(tmp_path / "backbone_heatmap" / "best.pt")
    train.main(options)
    assert {path.parent.name for path in tmp_path.glob("*/best.pt")} == {"backbone_heatmap", "adversarial"}
    after = weights(tmp_path / "adversarial" / "last.pt")
    assert all(tensor.equal(after[key]) for key, tensor in before.items())
    assert after["branches.0.entry.0.0.weight"].shape[1] == 2 * 8 + 2
    assert "code" not in history(tmp_path / "adversarial")[0]


def test_two_processes_train_the_whole_chain(training, tmp_path):
    subprocess.run([sys.executable, "-m", "focusnet_v2.train", *training, "--run-dir", str(tmp_path), "--devices", "2"],
                   check=True, capture_output=True, timeout=120)
    for stage in CHAIN:
        assert len(history(tmp_path / stage)) == 2


def test_cohorts_without_some_or_all_small_organs_are_trained_on(raw, prepare, training, tmp_path):
    """No chiasm at all; one case has no small organ, another is 20 slices less and not square."""
    shutil.copytree(raw, tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("Chiasm.nrrd"):
        path.unlink()
    for name in ("OpticNerve_L", "OpticNerve_R"):
        (tmp_path / "raw" / "P1" / "structures" / f"{name}.nrrd").unlink()
    for path in (tmp_path / "raw" / "P3").rglob("*.nrrd"):
        image = sitk.ReadImage(str(path))[5:, 2:40, 9:]
        image.SetSpacing((4.4, 4.0, 5.2))
        write_volume(image, path)
    assert prepare(tmp_path / "raw", tmp_path / "prepared") == 0
    train.main([*training, "--prepared-dir", str(tmp_path / "prepared"), "--run-dir", str(tmp_path / "run")])
    assert np.isfinite(float(history(tmp_path / "run" / "adversarial")[-1]["loss"]))
    for path in (tmp_path / "raw").rglob("OpticNerve_?.nrrd"):
        path.unlink()
    assert prepare(tmp_path / "raw", tmp_path / "prepared") == 0
    options = [*training, "--prepared-dir", str(tmp_path / "prepared"), "--run-dir", str(tmp_path / "none")]
    with pytest.raises(InputError, match="no training case has a small organ.*--no-shape-constraint"):
        train.main(options)
    train.main([*options, "--no-shape-constraint"])  # the finished stages stay
    assert len(history(tmp_path / "none" / "adversarial")) == 2


def test_a_run_is_neither_changed_nor_started_in_the_middle(training, of_stage, run_dir, tmp_path):
    training = of_stage(SOL, training)
    with pytest.raises(InputError, match="sol_lr 0.0004 .now 0.1."):
        train_SOL.main(["--run-dir", str(run_dir), "--resume", "--sol-lr", "0.1"])
    with pytest.raises(InputError, match="no last.pt to go on from"):
        train_SOL.main([*training, "--run-dir", str(tmp_path), "--resume"])
    with pytest.raises(InputError, match="best.pt: no such file. Finish stage backbone first"):
        train_SOL.main([*training, "--run-dir", str(tmp_path)])
    shutil.copytree(run_dir / "backbone", tmp_path / "backbone")
    with pytest.raises(InputError, match="made with width 8 .now 16"):
        train_SOL.main([*training, "--run-dir", str(tmp_path), "--width", "16"])


def test_the_rate_warms_up_and_falls():
    rates = [sgd_rate(epoch, 0.1, 5, (200, 400)) for epoch in (0, 4, 5, 199, 200, 399, 400)]
    assert rates == pytest.approx([0.1 * np.exp(-10), 0.1 * np.exp(-2), 0.1, 0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize("options, message", [
    (["--backbone-lr", "0"], "--backbone-lr 0.0 must be positive"), (["--ae-lr", "nan"], "--ae-lr nan must be a"),
    (["--patch-zyx", "8", "30", "32"], "divisible by 4"), (["--box-zyx", "8", "12", "16"], "--box-zyx .* divisible"),
    (["--box-zyx", "16", "16", "16"], "must not be smaller than --box-zyx"), (["--width", "12"], "--width 12 must be"),
    (["--adv-epochs", "0"], "--adv-epochs 0 must be at least 1"),
    (["--crop-side", "16", "--layout", "pddca"],
     "--crop-side .a setting of crop_data.py., --layout .a setting of data_preprocess.py."),
    (["--sos-inputs", "some"], "invalid choice: 'some'"),
    (["--backbone-lr", "1e30", "--backbone-warmup", "0"], "loss .* on patches of P")])
def test_impossible_settings_are_refused(training, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        train.main([*training, "--run-dir", str(tmp_path), *options])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(training, tmp_path):
    with pytest.raises(InputError, match="--device cuda: none on this machine. Here: "):
        train.main([*training, "--device", "cuda", "--run-dir", str(tmp_path)])


@pytest.mark.parametrize("script, stage", ALL_SCRIPTS)
def test_a_stage_takes_what_it_reads_and_refuses_the_rest(training, of_stage, tmp_path, capsys, script, stage):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    offered = set(re.findall(r"^  --([\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {name.replace("-", "_") for name in offered} == set(names_of(stage.options))
    options = [*of_stage(stage, training), "--run-dir", str(tmp_path)]
    for option, owners in (("--ae-lr 1", "train_autoencoder.py"), ("--no-shape-constraint", "adv_train.py"),
                           ("--undrawn original", "train_backbone.py and train_backbone_heatmap.py"),
                           ("--heatmap-sigma 2", "train_SOL.py and train_backbone_heatmap.py"),
                           ("--crop-side 8", "crop_data.py")):
        if script.__name__.split(".")[-1] + ".py" not in owners:
            name = option.split()[0]
            with pytest.raises(InputError, match=rf"^unknown option {name} \(a setting of {owners}\)\. Valid: "):
                script.main([*options, *option.split()])
    assert not any(tmp_path.iterdir())


class Noted:
    """A Config that notes which of its settings are asked for."""

    def __init__(self, config, asked):
        self._config, self._asked = config, asked

    def __getattr__(self, name):
        self._asked.add(name)
        return getattr(self._config, name)


BY_THE_LOOP = {*names_of(Run), "batch_size", "validate_every", "seed", "precision", "original_bn_drift",
               "small"}  # the last as n_small and small_labels
OF_THE_BACKGROUND = {"undrawn"}  # whether it counts as present, in every patch; only the main network asks


@pytest.mark.parametrize("stage", [stage for _, stage in ALL_SCRIPTS])
def test_a_stage_reads_its_options_and_no_others(run_dir, tmp_path, monkeypatch, stage):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns(stage.name))
    changes = {"run_dir": tmp_path / "run", "heatmap_threshold": 0.0}  # so that every box counts
    config = load_config(Config, run_dir / "backbone" / "config.json", changes)
    asked = set()
    monkeypatch.setattr(engine, "replace", lambda config, **changes: Noted(replace(config, **changes), asked))
    engine.train_stage(stage, config, engine.launch(config))
    options = set(names_of(stage.options))
    assert asked & set(names_of(Train)) <= options | OF_THE_BACKGROUND
    assert options - asked <= BY_THE_LOOP | {f"{STAGES[stage.name]}_epochs"}


def test_the_validation_loss_is_recorded_and_chooses_nothing(run_dir):
    for stage in CHAIN:
        rows = history(run_dir / stage)
        assert all(np.isfinite(float(row["val_loss"])) for row in rows)
        state = torch.load(run_dir / stage / "best.pt", weights_only=True)
        column, sign = {"SOL": ("val_centre_mm", -1), "adversarial": ("val_small_dice", 1)}.get(stage, ("val_dice", 1))
        scores = [sign * float(row[column]) for row in rows]
        assert scores[len(state["history"]) - 1] == max(scores)


def test_the_validation_loss_is_the_training_loss_of_every_window(run_dir, tmp_path):
    """Of the main network: the windows cut from the case by hand, through the loss that training takes."""
    config = load_config(Config, run_dir / "backbone" / "config.json")
    stage = Backbone(config)
    load_strictly(stage.networks["model"], weights(run_dir / "backbone" / "last.pt"), "last.pt")
    network = stage.networks["model"].eval()
    expected = []
    for case in load_cases(config, "valid"):
        (_, y, x), (depth, *plane) = seen_box(case["image"], config)
        losses = []
        for z in window_starts(depth, config.patch_zyx[0], config.window_step):
            start, shape = (z + len(case["image"]) - depth, y, x), (config.patch_zyx[0], *plane)
            image, label = (torch.from_numpy(np.ascontiguousarray(part))[None, None] for part in (
                unit(cut(case["image"], start, shape, "edge")), cut(case["label"], start, shape)))
            presence = torch.tensor([[1, *case["presence"][1:]]], dtype=torch.float32)
            with torch.inference_mode():
                logits = merge_undrawn(network(image), presence)
                losses.append(sum(backbone_loss(logits, label, config.alpha, presence, config.dice_weight).values()))
        expected.append(float(sum(losses)) / len(losses))
    recorded = float(history(run_dir / "backbone")[-1]["val_loss"])
    assert recorded == pytest.approx(np.mean(expected), rel=0.02)  # the recorded one: in the precision of training


def test_a_run_begun_without_a_validation_loss_goes_on(run_dir, tmp_path):
    shutil.copytree(run_dir / "backbone", tmp_path / "backbone")
    path = tmp_path / "backbone" / "last.pt"
    state = torch.load(path, weights_only=True)
    for row in state["history"]:
        row.pop("val_loss")
    torch.save(state, path)
    train_backbone.main(["--run-dir", str(tmp_path), "--resume", "--backbone-epochs", "3"])
    losses = [float(row["val_loss"]) for row in history(tmp_path / "backbone")]
    assert np.isnan(losses[:2]).all() and np.isfinite(losses[2])
