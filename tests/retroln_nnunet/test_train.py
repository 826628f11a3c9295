"""The real nnU-Net: plan, training, resume, our augmentation, the plain commands."""
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.nn import functional as F

import retroln_nnunet.plans
from retroln_nnunet import train
from retroln_nnunet.config import Config
from retroln_nnunet.dataset import make_splits, split_cases
from retroln_nnunet.original_checkpoint import read_checkpoint
from retroln_nnunet.plans import PLANS, published_plans
from retroln_nnunet.trainer import LandmarkTransform, MagnitudeInVoxels, nnUNetTrainerRetroLN
from shared_data.errors import InputError
from shared_data.files import only_run_in, read_json, read_table
from shared_data.phantoms_abdomen import abdomen
from tests.faults.attempt import attempt


def fold_dir(nnunet):
    return train.model_dir(Config(nnunet_dir=nnunet)) / "fold_0"


def test_published_plan_and_parameter_count(golden):
    facts = json.loads((golden / "retroln_nnunet.json").read_text())
    own = {"configurations": {"3d_fullres": {}}, "image_reader_writer": "SimpleITKIO"}
    plan = published_plans(own, Config())["configurations"]["3d_fullres"]
    for ours, theirs in (("patch_size", "patch_size"), ("batch_size", "batch_size"), ("spacing", "spacing"),
                         ("normalization_schemes", "normalization"), ("batch_dice", "batch_dice")):
        assert plan[ours] == facts[theirs]
    assert plan["architecture"]["network_class_name"] == facts["original_class"]
    assert plan["architecture"]["arch_kwargs"] == facts["arch_kwargs"]
    assert {"initial_lr": str(Config().lr), "batch_size": "2"}.items() <= facts["trainer"].items()
    manager = PlansManager({"plans_name": "x", "configurations": {"3d_fullres": plan}})
    network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, True)
    assert sum(p.numel() for p in network.parameters()) == facts["total_parameters"] == 31_113_098
    assert sum(p.numel() for p in network.encoder.parameters()) == facts["encoder_parameters"]
    with torch.inference_mode():
        shapes = [list(output.shape) for output in network(torch.zeros(1, 1, 32, 64, 64))]
    assert shapes == facts["output_shapes_for_1x1x32x64x64"]


def test_a_run_leaves_what_the_readme_says(trained):
    fold = fold_dir(trained)
    assert {"checkpoint_final.pth", "checkpoint_best.pth", "history.csv", "curves.png", "progress.png", "tensorboard",
            "validation"} <= {path.name for path in fold.iterdir()}
    assert list((fold / "tensorboard").iterdir()) and not list(fold.glob("*.partial"))
    assert [row["epoch"] for row in read_table(fold / "history.csv", [])] == ["1", "2"]
    plans = read_json(fold.parent / "plans.json")
    assert plans["retroln"]["elastic_probability"] == 0.2 and plans["retroln"]["oversample_foreground"] == 0.5
    assert (fold / "validation" / "summary.json").exists()
    assert read_checkpoint(fold / "checkpoint_final.pth")["trainer_name"] == train.TRAINER
    splits = read_json(trained / "nnUNet_preprocessed" / train.DATASET / "splits_final.json")
    assert [fold["val"] for fold in splits] == [["P1"], ["P2"], ["P3"]]  # P4 is held out


def test_the_trainer_adds_both_augmentations():
    trainer = nnUNetTrainerRetroLN.__new__(nnUNetTrainerRetroLN)
    plans = published_plans({"configurations": {"3d_fullres": {}}}, Config())
    trainer.settings = Config(landmark_shift_mm=(1, 2, 3), elastic_mm=(4, 4))
    trainer.configuration_manager = PlansManager({**plans, "plans_name": "x"}).get_configuration("3d_fullres")
    steps = trainer.get_training_transforms((64, 192, 160), (-0.5, 0.5), None, (0, 1, 2), False).transforms
    spatial = next(step for step in steps if isinstance(step, SpatialTransform))
    assert isinstance(steps[0], LandmarkTransform) and steps[0].shift_mm == (1, 2, 3)
    assert spatial.p_elastic_deform == 0.2 and spatial.elastic_deform_magnitude(torch.zeros(1, 2, 2, 2), 0) == 4 / 2.5


def test_killed_and_resumed_equals_uninterrupted(folders, training, trained, tmp_path, capfd):
    shutil.copytree(trained, tmp_path / "nnunet")
    shutil.rmtree(tmp_path / "nnunet" / "nnUNet_results")
    options = [*folders[:2], "--nnunet-dir", str(tmp_path / "nnunet")]
    fold = fold_dir(tmp_path / "nnunet")
    killed = attempt("retroln_nnunet.train", [*options, *training],
                     kill_when=lambda _: (fold / "checkpoint_latest.pth").exists())
    assert killed.code == -signal.SIGKILL
    assert not (fold / "checkpoint_final.pth").exists()
    for more, message in ((training, "holds a run already. Add --resume"),
                          (["--resume", "--lr", "0.1"], "checkpoint_latest.pth: made with other settings: lr 0.01")):
        with pytest.raises(InputError, match=message):
            train.main([*options, *more])
    assert train.main([*options, "--c", "--num-processes", "0"]) == 0
    said = capfd.readouterr().out
    assert ": Epoch 1" in said and ": Epoch 0" not in said
    names = ("checkpoint_final.pth", "checkpoint_best.pth", "history.csv")
    ours, whole = ([folder / name for name in names] for folder in (fold, fold_dir(trained)))
    assert ours[2].read_text() == whole[2].read_text()
    for one, other in zip(ours[:2], whole[:2]):
        one, other = (read_checkpoint(path)["network_weights"] for path in (one, other))
        assert all(one[key].equal(other[key]) for key in one)


def test_a_run_is_not_overwritten(folders, training, trained):
    with pytest.raises(InputError, match="holds a run already. Add --resume"):
        train.main([*folders, *training])
    with pytest.raises(InputError, match="fold_1: no checkpoint to go on from"):
        train.main([*folders, *training, "--resume", "--fold", "1"])
    with pytest.raises(InputError, match="there are 3 folds"):
        train.main([*folders, *training, "--fold", "7"])
    with only_run_in(trained), pytest.raises(InputError, match="another run is at work here"):
        train.main([*folders, *training, "--prepare_only"])
    with only_run_in(fold_dir(trained)), pytest.raises(InputError, match="another run is at work here"):
        train.main([*folders, "--resume"])


@pytest.mark.parametrize("plans, network", [("auto", "PlainConvUNet"), ("resenc_m", "ResidualEncoderUNet")])
def test_nnunets_own_plans(folders, trained, tmp_path, plans, network, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(trained / name, tmp_path / name)
    preprocessed = []
    monkeypatch.setattr(retroln_nnunet.plans.nnunet, "preprocess", lambda *arguments: preprocessed.append(arguments))
    options = [*folders[:2], "--nnunet-dir", str(tmp_path), "--plans", plans, "--num-processes", "0"]
    assert train.main([*options, "--prepare_only"]) == 0
    folder = tmp_path / "nnUNet_preprocessed" / train.DATASET
    made = read_json(folder / f"{PLANS[plans][0]}.json")
    assert made["configurations"]["3d_fullres"]["architecture"]["network_class_name"].endswith(network)
    assert made["retroln"]["plans"] == plans and made["retroln"]["oversample_foreground"] == 0.5
    assert preprocessed == [([600], PLANS[plans][0], ["3d_fullres"], [1])]
    with pytest.raises(InputError, match="--configuration 3d_lowres: not in the plans. Valid: 2d, 3d_fullres"):
        train.main([*options, "--configuration", "3d_lowres", "--prepare_only"])


def test_device_and_number_of_gpus_reach_nnunet(folders, training, trained, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(train.subprocess, "run", lambda command, **_: commands.append(command) or
                        subprocess.CompletedProcess(command, 1, stderr="one\nRuntimeError: the last word\n"))
    monkeypatch.setattr(train.torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(train, "choose_device", torch.device)
    with pytest.raises(InputError, match="exit code 1: RuntimeError: the last word. Out of memory"):
        train.main([*folders, "--resume", "--device", "cuda", "--devices", "4"])
    assert commands[0][2:] == ["retroln_nnunet.trainer", "600", "3d_fullres", "0", "-tr", train.TRAINER, "-p",
                               "RetroLNPlans", "--npz", "-device", "cuda", "-num_gpus", "4", "--c"]
    for device, devices, message in (("cpu", 4, "0 GPUs to train on .cpu."), ("cuda", 5, "4 GPUs to train on .cuda.")):
        with pytest.raises(InputError, match=f"--devices {devices}: {message}"):
            train.main([*folders, "--device", device, "--devices", str(devices)])
    assert len(commands) == 1


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_each_process_of_ddp_knows_the_trainer(monkeypatch):
    """multiprocessing runs the main module again, as __mp_main__, in the processes that it spawns."""
    monkeypatch.setattr(run_training, "recursive_find_trainer_class_by_name", None)
    runpy.run_module("retroln_nnunet.trainer", run_name="__mp_main__")
    assert run_training.recursive_find_trainer_class_by_name(train.TRAINER) is nnUNetTrainerRetroLN


def plain(trained, program, *arguments):
    """Run one of nnU-Net's commands on the folders that train.py left."""
    env = {**os.environ, **train.environment(Config(nnunet_dir=trained)), "nnUNet_n_proc_DA": "1"}
    return subprocess.run([Path(sys.executable).parent / program, *map(str, arguments)], env=env, capture_output=True,
                          text=True)


def test_plain_commands_work_on_the_prepared_folder(trained, tmp_path):
    done = plain(trained, "nnUNetv2_plan_and_preprocess", "-d", 600, "-c", "3d_fullres", "-np", 1, "-npfp", 1,
                 "--verify_dataset_integrity")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (trained / "nnUNet_preprocessed" / train.DATASET / "nnUNetPlans.json").exists()


def timm_works():
    return subprocess.run([sys.executable, "-c", "import timm.layers"], capture_output=True).returncode == 0


@pytest.mark.skipif(not timm_works(), reason="timm, which nnU-Net's search for a trainer imports, does not work here")
def test_plain_training_finds_our_trainer(trained):
    done = plain(trained, "nnUNetv2_train", 600, "3d_fullres", 1, "-p", "RetroLNPlans", "-tr", train.TRAINER, "-device",
                 "cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (fold_dir(trained).with_name("fold_1") / "checkpoint_final.pth").exists()


def test_landmark_transform_shifts_by_millimetres_and_scales_the_levels():
    image = torch.zeros(1, 16, 20, 24)
    image[0, 8, 10, 12] = 1
    step = LandmarkTransform(1.0, (0, 0, 0), 0, 200, (5, 2, 2))
    same = step(image=image.clone(), segmentation=image.to(torch.int16))
    assert torch.allclose(same["image"], image, atol=1e-5) and same["segmentation"].equal(image.to(torch.int16))
    theta = {"theta": torch.tensor([[[1, 0, 0, 2 * 3 / 24], [0, 1, 0, 2 * -2 / 20], [0, 0, 1, 2 * 1 / 16]]]).float()}
    moved = step.apply({"image": image, "segmentation": image.to(torch.int16)}, **theta)
    found = [moved["image"].round(), moved["segmentation"].clamp(0)]
    assert [array.nonzero().tolist() for array in found] == [[[0, 7, 12, 9]]] * 2
    assert moved["segmentation"].min() == -1 and not (moved["segmentation"][:, :15, 2:, :21] < 0).any()  # from outside
    np.random.seed(0)  # noqa: NPY002  nnU-Net draws from it
    step = LandmarkTransform(1.0, (5, 4, 4), 10, 200, (5, 2, 2))
    thetas = torch.cat([step.get_parameters(image=image)["theta"] for _ in range(2000)])
    millimetres = thetas[:, :, 3] / 2 * torch.tensor([24 * 2, 20 * 2, 16 * 5])
    assert torch.allclose(millimetres.std(0), torch.tensor([4.0, 4, 5]), rtol=0.1)
    assert float(thetas[:, 2, 2].std()) == pytest.approx(0.05, rel=0.1) and (thetas[:, 0, 0] == 1).all()


def test_elastic_magnitude_is_in_millimetres():
    magnitude = MagnitudeInVoxels((4, 4), (2.0, 0.5, 0.5))
    assert [magnitude(torch.zeros(1, 2, 2, 2), dim) for dim in range(3)] == [2, 8, 8]
    assert magnitude(torch.zeros(1, 2, 2), 0) == 8


def test_two_phantom_cases_are_learned_by_heart():
    torch.set_num_threads(1)  # on a busy machine threads wait for one another
    torch.manual_seed(0)
    cases = [abdomen(seed, (32, 64, 64), (4.0, 4.0, 7.5)) for seed in (1, 2)]
    centre = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    image = torch.stack([torch.from_numpy(hu) for hu, *_ in cases])[centre].float()[:, None].clamp(-160, 240) / 100
    label = torch.stack([torch.from_numpy(nodes) for _, nodes, _ in cases])[centre].long()
    plan = published_plans({"configurations": {"3d_fullres": {}}}, Config(base_features=8))
    manager = PlansManager({**plan, "plans_name": "x"})
    network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 1, 2, False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(70):
        logits = network(image)
        probability = logits.softmax(1)[:, 1]
        overlap = 2 * (probability * label).sum() / (probability.sum() + label.sum())
        loss = F.cross_entropy(logits, label, weight=torch.tensor([1.0, 30.0])) + 1 - overlap  # nodes are 0.6 % here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    prediction = logits.argmax(1)
    assert losses[-1] < 0.25 * losses[0]
    assert 2 * (prediction & label).sum() / (prediction.sum() + label.sum()) > 0.8


def test_cases_of_a_patient_stay_together():
    cases = [f"{patient}_{scan}" for patient in range(12) for scan in "ab"]
    config = Config(patient_pattern=r"^(\d+)_")
    rest, held_out = split_cases(cases, config)
    assert held_out == ["11_a", "11_b"]
    for fold in make_splits(rest, config):
        assert sorted(fold["train"] + fold["val"]) == sorted(rest)
        assert not {name.split("_")[0] for name in fold["train"]} & {name.split("_")[0] for name in fold["val"]}
    with pytest.raises(InputError, match="1 patient; train, validation and test"):
        split_cases(["only"], Config())


@pytest.mark.parametrize("options, message", [
    (["--patch-zyx", "30", "64", "64"], "divisible by 16"), (["--patch-zyx", "16", "32", "32"], "too small"),
    (["--epochs", "0"], "at least 1"), (["--lr", "nan"], "--lr nan must be a finite number"),
    (["--momentum", "1"], "must lie in 0..1, below 1"), (["--spacing-zyx", "0", "1", "1"], "must be positive"),
    (["--patient-pattern", "("], "--patient-pattern"), (["--elastic-mm", "8", "2"], "low, then high"),
    (["--plans", "other"], "invalid choice"), (["--landmark-probability", "2"], "must lie in 0..1")])
def test_impossible_settings_are_refused(folders, options, message):
    with pytest.raises(InputError, match=message):
        train.main([*folders, *options])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(folders):
    with pytest.raises(InputError, match="--device cuda: none on this machine. Here: "):
        train.main([*folders, "--device", "cuda"])


def test_a_cohort_without_nodes_is_refused(processed, tmp_path):
    report = read_json(processed / "report.json")
    for row in report["cases"]:
        row["mask_voxels"] = 0
    crops = tmp_path / "crops"
    crops.mkdir()
    with pytest.raises(InputError, match="crops: no prepared cases in it. Prepare the cohort first"):
        train.main(["--prepared-dir", str(crops), "--nnunet-dir", str(tmp_path / "n")])
    shutil.copy(processed / "config.json", crops)
    for content, message in (("{}", "report.json: damaged"), ('{"cases": []}', "no case with a mask"),
                             (json.dumps(report), "not one mask holds a node")):
        (crops / "report.json").write_text(content)
        with pytest.raises(InputError, match=message):
            train.main(["--prepared-dir", str(crops), "--nnunet-dir", str(tmp_path / "n")])
    with pytest.raises(InputError, match="must lie apart"):
        train.main(["--prepared-dir", str(crops), "--nnunet-dir", str(crops / "n")])
    with pytest.raises(InputError, match="unknown option --min-hu .a setting of crop.py."):
        train.main(["--prepared-dir", str(processed), "--nnunet-dir", str(tmp_path / "n"), "--min-hu", "-500"])
