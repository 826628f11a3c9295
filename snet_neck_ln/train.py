"""Train S-Net on one fold: python train.py --val-fold 1 [--resume]

Writes to the run folder: config.json, history.csv, curves.png, tensorboard/, last.pt, best.pt, epoch_*.pt.
"""
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from shared_data.errors import run_script
from shared_data.files import check_free_space, clear_partials, only_run_in, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.named_types import Values
from shared_data.settings import check_started, given_options, names_of, settings_of_run, to_plain
from shared_results.pictures import draw_curves
from shared_torch.checkpoints import load_strictly
from shared_torch.devices import choose_device, choose_precision, compile_for_training, start_fabric
from shared_torch.loss_watch import LossWatch
from snet_neck_ln.checkpoint import load_checkpoint, save_checkpoint
from snet_neck_ln.config import STEPS, Config, Run, Slices, Train
from snet_neck_ln.dataset import BalancedSampler, Loader, SliceDataset, build_loaders
from snet_neck_ln.inference import logit
from snet_neck_ln.losses import binary_focal_loss, snet_loss
from snet_neck_ln.networks import build_network


def main(argv: Sequence[str] | None = None) -> None:
    config = read_settings(given_options(Train, argv, __doc__, STEPS))
    check_started(config)
    device = choose_device(config.device)
    fabric = start_fabric(config, device, choose_precision(config.precision, device))
    with only_run_in(config.run_dir) if fabric.is_global_zero else nullcontext():
        train(config, fabric)


def read_settings(given: Values) -> Config:
    """The Config of a run: from the options given, or with `resume` from its last checkpoint. Raises InputError."""
    return settings_of_run(Config, given, "last.pt", names_of(Run), lambda path: load_checkpoint(path)["config"],
                           names_of(Slices))


def is_finished(config: Config) -> bool:
    """Whether a run with a last checkpoint has nothing left to do."""
    state = load_checkpoint(config.run_dir / "last.pt")
    return len(state["history"]) >= config.epochs or state["since_best"] >= config.stop_patience


def train(config: Config, fabric: Fabric) -> None:
    """Train all epochs, from the start or from last.pt."""
    if fabric.is_global_zero:
        clear_partials(config.run_dir)
        check_free_space(config.run_dir, 50e6)
    fabric.seed_everything(config.seed, verbose=False)
    train_loader, val_loader = build_loaders(config, fabric.global_rank, fabric.world_size)
    slices, sampler = train_loader.dataset, train_loader.sampler
    assert isinstance(slices, SliceDataset) and isinstance(sampler, BalancedSampler)
    train_loader, val_loader = fabric.setup_dataloaders(train_loader, val_loader, use_distributed_sampler=False)
    model = build_network(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lacks it
    if config.compile:
        compile_for_training(model)
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=config.lr))
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="max", factor=config.lr_factor, patience=config.lr_patience, min_lr=config.min_lr)
    history, best_dice, since_best, trained_on = [], -1.0, 0, slices.patients()
    if config.resume:
        state = load_checkpoint(config.run_dir / "last.pt")
        load_strictly(model, state["model"], config.run_dir / "last.pt")
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        history, best_dice, since_best = state["history"], state["best_dice"], state["since_best"]
        trained_on |= set(state.get("trained_on", []))
    if fabric.is_global_zero:
        write_json(config.run_dir / "config.json", to_plain(config))
        board = SummaryWriter(config.run_dir / "tensorboard", purge_step=len(history) + 1)
        print(f"{config.epochs - len(history)} epochs of {len(train_loader)} updates on {fabric.device}", flush=True)

    while len(history) < config.epochs and since_best < config.stop_patience:
        epoch = len(history)
        fabric.seed_everything(config.seed + epoch, verbose=False)  # the same random numbers in a resumed run
        sampler.epoch = epoch
        row = {"epoch": epoch + 1, "lr": optimizer.param_groups[0]["lr"]}
        row |= train_one_epoch(fabric, model, optimizer, train_loader, f"epoch {epoch + 1}/{config.epochs}")
        row |= validate(fabric, model, val_loader, config.train_threshold)
        scheduler.step(row["val_dice"])
        history.append(row)
        since_best = 0 if row["val_dice"] > best_dice else since_best + 1
        best_dice = max(best_dice, row["val_dice"])
        if fabric.is_global_zero:
            state = {"config": to_plain(config), "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                     "scheduler": scheduler.state_dict(), "history": history, "best_dice": best_dice,
                     "since_best": since_best, "trained_on": natural_sort(trained_on)}
            save_epoch(config, state, board)
        fabric.barrier()
    if fabric.is_global_zero:
        board.close()
        print(f"best validation Dice {best_dice:.4f} after {len(history)} epochs: {config.run_dir}")


def train_one_epoch(fabric: Fabric, model: _FabricModule, optimizer: torch.optim.Optimizer, loader: Loader,
                    name: str) -> dict[str, float]:
    """One pass over the slices; returns the mean of the loss and of each of its terms."""
    model.train()
    history = []
    bar = tqdm(loader, name, unit="batch", leave=False, disable=None if fabric.is_global_zero else True)
    watch = LossWatch(bar, fabric.device, "slices")
    for batch in bar:
        outputs = model(batch["image"].contiguous(memory_format=torch.channels_last))
        terms = snet_loss(outputs, batch["mask"])
        loss = torch.as_tensor(sum(terms.values()))
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        terms = {"loss": loss, **terms, "focal": binary_focal_loss(outputs[0], batch["mask"])}
        history.append(torch.stack([term.detach() for term in terms.values()]))
        watch.saw(loss, batch["patient"])
    watch.look()
    means = torch.as_tensor(fabric.all_reduce(torch.stack(history).mean(0), reduce_op="mean"))
    return dict(zip(terms, means.tolist()))


@torch.inference_mode()
def validate(fabric: Fabric, model: _FabricModule, loader: Loader, threshold: float) -> dict[str, float]:
    """Mean loss over slices, mean Dice over patients (3-D, within the crop) and over slices with a node."""
    model.eval()
    network = model.module  # not through DDP, which needs equally many calls in every process
    assert isinstance(loader.dataset, SliceDataset)
    patients = sorted(loader.dataset.patients())
    counts = torch.zeros(len(patients), 2, device=fabric.device)  # 2 x overlap, reference + prediction
    slices = torch.zeros(2, device=fabric.device)  # sum of Dice, number of slices with a node
    losses = torch.zeros(2, device=fabric.device)  # sum over slices, number of slices
    cut = logit(threshold)
    for batch in loader:
        with fabric.autocast():
            outputs = network(batch["image"].contiguous(memory_format=torch.channels_last))
        main, a, b = (logits.float() for logits in outputs)
        loss = torch.as_tensor(sum(snet_loss((main, a, b), batch["mask"]).values()))
        losses += torch.stack([loss, torch.ones_like(loss)]) * len(batch["mask"])
        prediction, mask = outputs[0] > cut, batch["mask"] > 0
        overlap = 2 * (prediction & mask).sum((1, 2, 3))
        total = (prediction.int() + mask.int()).sum((1, 2, 3))
        rows = torch.tensor([patients.index(name) for name in batch["patient"]], device=fabric.device)
        counts.index_add_(0, rows, torch.stack([overlap, total], 1).float())
        with_node = mask.any(3).any(2).any(1)
        slices += torch.stack([(overlap / total)[with_node].sum(), with_node.sum().float()])
    counts = torch.as_tensor(fabric.all_reduce(counts, reduce_op="sum"))
    slices = torch.as_tensor(fabric.all_reduce(slices, reduce_op="sum"))
    losses = torch.as_tensor(fabric.all_reduce(losses, reduce_op="sum"))
    dice = (counts[:, 0] / counts[:, 1]).nanmean().item()  # NaN: a patient without node and prediction
    return {"val_dice": dice, "val_slice_dice": (slices[0] / slices[1]).item(),
            "val_loss": (losses[0] / losses[1]).item()}


def save_epoch(config: Config, state: dict[str, Any], board: SummaryWriter) -> None:
    """Write everything about an epoch, last.pt last, so that a kill at any moment costs at most this epoch."""
    history = state["history"]
    row = history[-1]
    if state["since_best"] == 0:
        save_checkpoint(config.run_dir / "best.pt", **state)
    if row["epoch"] % config.checkpoint_every == 0:
        save_checkpoint(config.run_dir / f"epoch_{row['epoch']:03d}.pt", **state)
    write_table(config.run_dir / "history.csv", history)
    draw_curves(history, config.run_dir / "curves.png",
                {"loss": ["loss", "val_loss", "tversky", "wbce", "wiou"],
                 "validation Dice": ["val_dice", "val_slice_dice"]})
    for name in row.keys() - {"epoch"}:
        board.add_scalar(name, row[name], row["epoch"])
    save_checkpoint(config.run_dir / "last.pt", **state)
    print(f"epoch {row['epoch']:3d}  loss {row['loss']:.4f}  val Dice {row['val_dice']:.4f}  lr {row['lr']:.2e}",
          flush=True)


if __name__ == "__main__":
    run_script(main)
