"""Train one member: python train.py --transform multi_thresh_1 --alpha 0.5 [--resume]; all six: --all-members

Writes to the run folder: config.json, history.csv, curves.png, tensorboard/, last.pt, best.pt.
--all-members makes a run folder for each of the six in --run-dir (unset: runs/sepnet/<network>).
"""
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from sepnet.authors_ini import read_ini
from sepnet.checkpoint import load_checkpoint, save_checkpoint
from sepnet.config import MEMBERS, Config, Run, Train, Volumes, given_settings
from sepnet.dataset import Case, Loader, PatchDataset, Steps, build_loader, draw_patch, drawn_classes, load_cases
from sepnet.inference import segment
from sepnet.losses import PartlyDrawnLoss, build_loss
from sepnet.networks import EncoderDecoder, build_network, leave_out
from shared_data.cohort import overgrown_notes
from shared_data.errors import run_script
from shared_data.files import check_free_space, clear_partials, only_run_in, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.metrics import dice, overgrown
from shared_data.named_types import Floats, Values
from shared_data.settings import build, check_started, names_of, settings_of_run, to_plain
from shared_results.pictures import draw_curves
from shared_torch.checkpoints import load_strictly
from shared_torch.devices import (Chosen, choose_device, choose_precision, compile_for_training, quickest_layout,
                                  start_fabric)
from shared_torch.loss_watch import LossWatch


@dataclass(frozen=True)
class Options(Train):
    config: Path | None = None  # INI file of the authors (config/train.txt); other options override it


def main(argv: Sequence[str] | None = None) -> None:
    given = given_settings(argv, __doc__, Options)
    if "config" in given:
        given = {**read_ini(given["config"]), **given}
    for member in member_settings({name: value for name, value in given.items() if name in names_of(Config)}):
        train(read_settings(member))


def member_settings(given: Values) -> list[Values]:
    """The settings of each member's run: of the six with `all_members`, otherwise of one."""
    given = dict(given)
    if not given.pop("all_members", False):
        return [given]
    folder = given.get("run_dir") or default_run_dir(given).parent
    members = [{**given, "transform": transform, "alpha": alpha, "run_dir": folder / f"{transform}_alpha{alpha:g}"}
               for transform, alpha in MEMBERS]
    return [member if (member["run_dir"] / "last.pt").exists() else {**member, "resume": False} for member in members]


def default_run_dir(given: Values) -> Path:
    """The run folder of the options given, whatever the organs: their number is known from the prepared cases only."""
    return build(Config, {name: value for name, value in given.items() if name != "weights"}).run_dir


def read_settings(given: Values) -> Config:
    """The Config of a run: from the options given, or with `resume` from its last checkpoint. Raises InputError."""
    return settings_of_run(Config, given, "last.pt", names_of(Run), lambda path: load_checkpoint(path)["config"],
                           names_of(Volumes), ("weights",))


def is_finished(config: Config) -> bool:
    """Whether a run with a last checkpoint has nothing left to do."""
    return len(load_checkpoint(config.run_dir / "last.pt")["history"]) >= config.epochs


def train(config: Config) -> None:
    """Train one member, in as many processes as the settings say."""
    check_started(config)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    fabric = start_fabric(config, device, precision)
    with only_run_in(config.run_dir) if fabric.is_global_zero else nullcontext():
        train_all_epochs(config, fabric, precision)


def train_all_epochs(config: Config, fabric: Fabric, precision: Chosen) -> None:
    """Train all epochs, from the start or from last.pt."""
    if fabric.is_global_zero:
        clear_partials(config.run_dir)
        check_free_space(config.run_dir, 200e6)
    fabric.seed_everything(config.seed, verbose=False)
    loader = build_loader(config, fabric.global_rank, fabric.world_size)
    patches, sampler = loader.dataset, loader.sampler
    assert isinstance(patches, PatchDataset) and isinstance(sampler, Steps)
    loader = cast(Loader, fabric.setup_dataloaders(loader, use_distributed_sampler=False))
    cases, loss_function = load_cases(config, "valid"), build_loss(config)
    model = build_network(config)
    if fabric.is_global_zero and (untaught := leave_out_untaught(model, patches.drawn, config)):
        print(f"note: in no training case, so left out: {', '.join(untaught)}")
    quickest_layout(model, fabric.device, precision)
    if config.compile:
        compile_for_training(model)
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=config.lr,
                                                            weight_decay=config.weight_decay))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, config.lr_every, config.lr_factor)
    history, best_dice, trained_on = [], -1.0, {case["patient"] for case in patches.cases}
    if config.resume:
        state = load_checkpoint(config.run_dir / "last.pt")
        load_strictly(model, state["model"], config.run_dir / "last.pt")
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        history, best_dice = state["history"], state["best_dice"]
        trained_on |= set(state.get("trained_on", []))
    if fabric.is_global_zero:
        write_json(config.run_dir / "config.json", to_plain(config))
        board = SummaryWriter(config.run_dir / "tensorboard", purge_step=len(history) + 1)
        print(f"{config.epochs - len(history)} epochs of {len(loader)} updates on {fabric.device}", flush=True)

    while len(history) < config.epochs:
        epoch = len(history)
        fabric.seed_everything(config.seed + epoch, verbose=False)  # the same random numbers in a resumed run
        sampler.epoch = epoch
        row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
        row["loss"] = train_one_epoch(fabric, model, optimizer, loss_function, loader,
                                      f"epoch {epoch + 1}/{config.epochs}")
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs
        row["val_dice"] = validate(fabric, model, cases, replace(config, precision=precision)) if due else float("nan")
        row["val_loss"] = validation_loss(fabric, model, loss_function, cases, config) if due else float("nan")
        scheduler.step()
        history.append(row)
        is_best = row["val_dice"] > best_dice
        best_dice = row["val_dice"] if is_best else best_dice
        if fabric.is_global_zero:
            state = {"config": to_plain(config), "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "scheduler": scheduler.state_dict(), "history": history, "best_dice": best_dice,
                     "trained_on": natural_sort(trained_on)}
            save_epoch(config, state, is_best, board)
        fabric.barrier()
    if fabric.is_global_zero:
        board.close()
        print(f"best validation Dice {best_dice:.4f} after {len(history)} epochs: {config.run_dir}")


def leave_out_untaught(network: EncoderDecoder, drawn: Sequence[Floats], config: Config) -> list[str]:
    """`leave_out` the organs that no training case has, which nothing would tell from the background; return their
    names.

    drawn: flags (C,) of each training case. With undrawn "original" none is left out.
    """
    untaught = np.flatnonzero(~np.any(drawn, axis=0)).tolist()
    if config.undrawn == "original" or not untaught:
        return []
    leave_out(network, untaught)
    return [config.classes[c] for c in untaught]


def train_one_epoch(fabric: Fabric, model: _FabricModule, optimizer: torch.optim.Optimizer,
                    loss_function: torch.nn.Module, loader: Loader, name: str) -> float:
    """One pass over the steps of an epoch; returns the mean loss."""
    model.train()
    losses = []
    bar = tqdm(loader, name, unit="step", leave=False, disable=None if fabric.is_global_zero else True)
    watch = LossWatch(bar, fabric.device)
    for batch in bar:
        known = (batch["drawn"],) if isinstance(loss_function, PartlyDrawnLoss) else ()
        loss = loss_function(model(batch["image"]).float(), batch["label"], *known)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
        watch.saw(loss, batch["patient"])
    watch.look()
    return torch.as_tensor(fabric.all_reduce(torch.stack(losses).mean(), reduce_op="mean")).item()


def validate(fabric: Fabric, model: _FabricModule, cases: Sequence[Case], config: Config) -> float:
    """Mean over the organs of each one's mean Dice over the whole cases that have it, with windows that overlap by
    half.

    The processes share the cases. Prints a note when a class fills more than half of a case.
    """
    model.eval()
    network = model.module  # not through DDP, which needs equally many calls in every process
    scores = torch.zeros(len(cases), 2, config.n_classes, device=fabric.device)
    for i in range(fabric.global_rank, len(cases), fabric.world_size):
        labels, _ = segment([network], [cases[i]["image"]], config, fabric.device, config.window_slices // 2)
        drawn = drawn_classes(cases[i], config.n_classes) if config.undrawn == "marginal" else [1] * config.n_classes
        scores[i] = torch.tensor([overgrown(labels, config.n_classes).astype(float).tolist(),
                                  [dice(cases[i]["label"] == c, labels == c) if drawn[c] else float("nan")
                                   for c in range(config.n_classes)]])
    scores = torch.as_tensor(fabric.all_reduce(scores, reduce_op="sum"))  # only one process has scored a case
    for line in overgrown_notes(scores[:, 0].cpu().numpy(), config.classes):
        if fabric.is_global_zero:
            print(line, flush=True)
    return scores[:, 1, 1:].nanmean(0).nanmean().item()


@torch.inference_mode()
def validation_loss(fabric: Fabric, model: _FabricModule, loss_function: torch.nn.Module, cases: Sequence[Case],
                    config: Config) -> float:
    """Mean loss over one patch of each validation case, always the same patches, without augmentation."""
    model.eval()
    losses = torch.zeros(len(cases), device=fabric.device)
    for i in range(fabric.global_rank, len(cases), fabric.world_size):
        image, label = draw_patch(cases[i], np.random.default_rng([config.seed, i]), replace(config, augment=False))
        drawn = torch.from_numpy(drawn_classes(cases[i], config.n_classes))[None].to(fabric.device)
        known = (drawn,) if isinstance(loss_function, PartlyDrawnLoss) else ()
        with fabric.autocast():
            output = model.module(torch.from_numpy(image).to(fabric.device)[None, None])
        losses[i] = loss_function(output.float(), torch.from_numpy(label).to(fabric.device)[None], *known)
    return torch.as_tensor(fabric.all_reduce(losses, reduce_op="sum")).mean().item()


def save_epoch(config: Config, state: dict[str, Any], is_best: bool, board: SummaryWriter) -> None:
    """Write everything about an epoch, last.pt last, so that a kill at any moment costs at most this epoch."""
    history = state["history"]
    row = history[-1]
    if is_best:
        save_checkpoint(config.run_dir / "best.pt", **state)
    write_table(config.run_dir / "history.csv", history)
    draw_curves(history, config.run_dir / "curves.png", {"loss": ["loss", "val_loss"], "validation Dice": ["val_dice"]})
    for name in row.keys() - {"epoch"}:
        if np.isfinite(row[name]):
            board.add_scalar(name, row[name], row["epoch"])
    save_checkpoint(config.run_dir / "last.pt", **state)
    validated = f"val Dice {row['val_dice']:.4f}  " if np.isfinite(row["val_dice"]) else ""
    print(f"epoch {row['epoch']:3d}  loss {row['loss']:.4f}  {validated}lr {row['lr']:.2e}", flush=True)


if __name__ == "__main__":
    run_script(main)
