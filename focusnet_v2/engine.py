"""The training loop that all stages share: epochs, validation, checkpoints, resume, history, curves."""
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from focusnet_v2.augment import augment
from focusnet_v2.cases import cases_of
from focusnet_v2.checkpoint import load_checkpoint, save_checkpoint
from focusnet_v2.config import (STAGES, Config, Crop, EveryStage, PrepareOptions, Run, Table, Train, TrainAdversarial,
                                TrainAutoencoder, TrainBackbone, TrainJoint, TrainSOL, Volumes)
from focusnet_v2.dataset import Case, Loader, MaskDataset, Order, PatchDataset, build_loader
from focusnet_v2.grids import CONSTANTS
from focusnet_v2.inference import Outputs, by_name
from focusnet_v2.validation import Terms, validate_volumes
from shared_data.errors import InputError
from shared_data.files import check_free_space, clear_partials, only_run_in, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.named_types import Row, Values
from shared_data.options import given_options, shown
from shared_data.settings import as_prepared, build, check_started, names_of, settings_of_run, to_plain
from shared_results.pictures import draw_curves
from shared_torch.checkpoints import load_strictly, trained_on
from shared_torch.devices import choose_device, choose_precision, compile_for_training, quickest_layout, start_fabric
from shared_torch.loss_watch import LossWatch

Networks = dict[str, _FabricModule]  # by their names in `Stage.networks`
Optimizers = Sequence[torch.optim.Optimizer]
Batch = dict[str, Any]

# Whose a setting is that another stage's script does not read.
SCRIPTS = {"data_preprocess.py": PrepareOptions, "crop_data.py": Crop, "train_backbone.py": TrainBackbone,
           "train_SOL.py": TrainSOL, "train_backbone_heatmap.py": TrainJoint, "train_autoencoder.py": TrainAutoencoder,
           "adv_train.py": TrainAdversarial}


class Stage:
    """One stage of training: what learns, from what, with which loss, optimiser and schedule.

    A subclass sets `name`, `options`, the settings it reads, and, in __init__, `networks` {name: module}, "model" being
    the one that is kept for the next stage; `frozen` modules; `dataset`; `batch_size`; `optimizers` [(network's name,
    optimiser)]; `cases` to validate on. It gives the rates and the loss, and what of the rest it does otherwise.
    """

    name = ""
    options: type[EveryStage]
    config: Config
    networks: dict[str, torch.nn.Module]
    frozen: Sequence[torch.nn.Module] = ()
    dataset: PatchDataset | MaskDataset
    batch_size: int | None = None  # unset: config.batch_size
    optimizers: list[tuple[str, torch.optim.Optimizer]]
    cases: list[Case]

    def __init__(self, config: Config) -> None:
        raise NotImplementedError

    def rates(self, epoch: int) -> list[float]:
        """Learning rate of each optimiser in this epoch, counted from 0."""
        raise NotImplementedError

    def terms(self, networks: Networks, outputs: Outputs, batch: Batch) -> Terms | None:
        """The named, weighted terms of the loss of a batch, or of a window while validating; None: nothing to learn."""
        raise NotImplementedError

    def loss_terms(self, networks: Networks, batch: Batch) -> Terms:
        """The terms of a batch in training."""
        batch = augment(batch, self.config)
        return self.terms(networks, by_name(networks["model"](batch["image"])), batch) or {}

    def validate(self, fabric: Fabric, networks: Networks) -> dict[str, float]:
        """{"val_loss", "val_...": score}, all networks in eval mode."""
        assert isinstance(self.dataset, PatchDataset)
        return validate_volumes(fabric, networks["model"].module, self.cases, self.config,
                                partial(self.terms, networks), self.dataset.with_heatmap)

    def score(self, row: Row) -> float:
        """What the best epoch has most of; NaN when nothing could be validated."""
        return row["val_dice"]

    def step(self, fabric: Fabric, networks: Networks, optimizers: Optimizers, batch: Batch) -> Terms:
        """One update; the terms of the loss."""
        terms = self.loss_terms(networks, batch)
        self.update(fabric, terms, optimizers)
        return terms

    @staticmethod
    def update(fabric: Fabric, terms: Terms, optimizers: Optimizers) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        fabric.backward(torch.as_tensor(sum(terms.values())))
        for optimizer in optimizers:
            optimizer.step()


def run_script_of(stage: type[Stage], argv: Sequence[str] | None, description: str | None) -> None:
    """main() of a stage's script."""
    config = read_settings(stage, given_options(stage.options, argv, description, SCRIPTS))
    train_stage(stage, config, launch(config))


def launch(config: Config) -> Fabric:
    """Fabric on the machine that the settings name; other processes start here."""
    check_started(config)
    device = choose_device(config.device)
    return start_fabric(config, device, choose_precision(config.precision, device))


def prepared_settings(options: Values) -> Config:
    """The Config of the options given to the whole chain, organs as the cases were prepared with, if they are."""
    path = options.get("prepared_dir", Config.prepared_dir) / "config.json"
    if path.exists():
        options = as_prepared(Config, options, path, names_of(Volumes), names_of(Table))
    config = build(Config, options)
    if config.small:
        check_boxes(config)
    return config


def check_boxes(config: Config) -> None:
    """Raise InputError when the boxes of the branches do not fit into the patches."""
    if any(side > of_patch for side, of_patch in zip(config.box_zyx, config.patch_zyx)):
        raise InputError(f"--patch-zyx {shown(config.patch_zyx)} must not be smaller than --box-zyx "
                         f"{shown(config.box_zyx)}.")


def read_settings(stage: type[Stage], options: Values) -> Config:
    """The stage's Config: from the options given, or, with `resume`, as its folder keeps it."""
    of_others = set(names_of(Train)).difference(names_of(stage.options))
    free = {*names_of(Run), *of_others, "localisation", f"{STAGES[stage.name]}_epochs"}
    config = settings_of_run(Config, options, f"{stage.name}/last.pt", free,
                             lambda path: load_checkpoint(path)["config"], names_of(Volumes), names_of(Table))
    if stage.name == "adversarial":
        check_boxes(config)
    return config


def is_finished(stage: type[Stage], config: Config) -> bool:
    """Whether a stage that can go on has nothing left to do."""
    state = load_checkpoint(config.run_dir / stage.name / "last.pt")
    return len(state["history"]) >= epochs_of(stage, config)


def epochs_of(stage: Stage | type[Stage], config: Config) -> int:
    return getattr(config, f"{STAGES[stage.name]}_epochs")


def train_stage(stage_class: type[Stage], config: Config, fabric: Fabric) -> None:
    """All epochs of a stage, from the start or from last.pt."""
    folder = config.run_dir / stage_class.name
    if stage_class.name != "backbone" and not config.small:
        raise InputError(f"stage {stage_class.name}: the label table has no small organs to train it on. "
                         "train_backbone.py is the only stage to run.")
    with only_run_in(folder) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            clear_partials(folder)
            check_free_space(folder, 500e6)
        fabric.seed_everything(config.seed, verbose=False)
        stage = stage_class(replace(config, precision=choose_precision(config.precision, fabric.device)))
        _train(stage, config, fabric, folder)
        fabric.barrier()


def _train(stage, config, fabric, folder):
    n_epochs, history, best = epochs_of(stage, config), [], -math.inf
    loader = build_loader(stage.dataset, stage.batch_size or config.batch_size, config, fabric.global_rank,
                          fabric.world_size)
    order = loader.batch_sampler
    assert isinstance(order, Order)
    loader = cast(Loader, fabric.setup_dataloaders(loader, use_distributed_sampler=False))
    networks, optimizers = set_up(stage, fabric)
    # Whoever an earlier stage of this run learnt from has taught this network, too.
    patients = set(cases_of(config, "train")).union(*map(trained_on, config.run_dir.glob("*/best.pt")))
    if config.resume:
        state = load_checkpoint(folder / "last.pt")
        for name, network in networks.items():
            load_strictly(network.module, state[name], folder / "last.pt")
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(optimizer_state)
        history, best = state["history"], state["best"]
        patients |= set(state.get("trained_on", []))
    if fabric.is_global_zero:
        write_json(folder / "config.json", to_plain(config))
        board = SummaryWriter(folder / "tensorboard", purge_step=len(history) + 1)
        print(f"stage {stage.name}: {n_epochs - len(history)} epochs of {len(loader)} updates on {fabric.device}",
              flush=True)

    while len(history) < n_epochs:
        epoch = len(history)
        fabric.seed_everything(config.seed + epoch, verbose=False)  # a resumed run meets the same chance
        order.epoch = epoch
        rates = stage.rates(epoch)
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate
        row = {"epoch": epoch + 1, "lr": rates[0]}
        row |= train_one_epoch(stage, fabric, networks, optimizers, loader,
                               f"{stage.name} {epoch + 1}/{n_epochs}", config.original_bn_drift)
        if (epoch + 1) % config.validate_every == 0 or epoch + 1 == n_epochs:
            for network in networks.values():
                network.eval()
            row |= stage.validate(fabric, networks)
        history.append(row)
        score = stage.score(row) if any(name.startswith("val_") for name in row) else math.nan
        is_best = score > best or best == -math.inf  # the latest, until one could be validated
        best = max(best, score)
        if fabric.is_global_zero:
            state = {"stage": stage.name, "config": to_plain(config), "constants": CONSTANTS, "history": history,
                     "best": best, "trained_on": natural_sort(patients),
                     **{name: network.module.state_dict() for name, network in networks.items()}}
            save_epoch(folder, state, [optimizer.state_dict() for optimizer in optimizers], is_best, board)
        fabric.barrier()
    if fabric.is_global_zero:
        board.close()
        print(f"stage {stage.name}: {len(history)} epochs: {folder}")


def set_up(stage: Stage, fabric: Fabric) -> tuple[Networks, Optimizers]:
    """{name: network} and [optimiser] on their devices, frozen parts without gradients."""
    for part in stage.frozen:
        part.requires_grad_(False)
    networks: Networks = {}
    optimizers: dict[int, torch.optim.Optimizer] = {}
    for name, network in stage.networks.items():
        quickest_layout(network, fabric.device, stage.config.precision)
        if stage.config.compile:
            compile_for_training(network)
        own = [i for i, (owner, _) in enumerate(stage.optimizers) if owner == name]
        networks[name], *wrapped = fabric.setup(network, *(stage.optimizers[i][1] for i in own))
        optimizers |= dict(zip(own, wrapped))
    return networks, [optimizers[i] for i in range(len(optimizers))]


def train_one_epoch(stage: Stage, fabric: Fabric, networks: Networks, optimizers: Optimizers, loader: Loader, name: str,
                    drift: bool = False) -> dict[str, float]:
    """One pass over the patches; the mean of the loss and of each term."""
    for network in networks.values():
        network.train()
    for part in () if drift else stage.frozen:
        part.eval()
    sums: Terms = {}
    n_steps = 0
    bar = tqdm(loader, name, unit="step", leave=False, disable=None if fabric.is_global_zero else True)
    watch = LossWatch(bar, fabric.device)
    for batch in bar:
        terms = stage.step(fabric, networks, optimizers, batch)
        terms = {"loss": torch.as_tensor(sum(terms.values())), **terms}
        sums = {term: sums.get(term, 0) + value.detach() for term, value in terms.items()}
        n_steps += 1
        watch.saw(terms["loss"], batch.get("case", ["?"]))
    watch.look()
    means = torch.as_tensor(fabric.all_reduce(torch.stack(list(sums.values())) / n_steps, reduce_op="mean"))
    return dict(zip(sums, means.tolist()))


def save_epoch(folder: Path, state: dict[str, Any], optimizers: Sequence[dict[str, Any]], is_best: bool,
               board: SummaryWriter) -> None:
    """last.pt last: whatever moment a kill comes, the run goes on as if there had been none."""
    history = state["history"]
    row = history[-1]
    if is_best:
        save_checkpoint(folder / "best.pt", **state)
    columns = list(dict.fromkeys(name for earlier in history for name in earlier))
    rows = [{name: earlier.get(name, math.nan) for name in columns} for earlier in history]
    write_table(folder / "history.csv", rows)
    scores = [name for name in columns if name.startswith("val_") and name != "val_loss"]
    if scores and math.isfinite(row.get(scores[0], math.nan)):  # a second's work: only after a validation
        losses = [name for name in columns if name not in ("epoch", "lr", *scores)]
        draw_curves(rows, folder / "curves.png", {"loss": losses, **{name: [name] for name in scores}})
    for name in row.keys() - {"epoch"}:
        if math.isfinite(row[name]):
            board.add_scalar(name, row[name], row["epoch"])
    save_checkpoint(folder / "last.pt", **state, optimizers=optimizers)
    print(f"epoch {row['epoch']:3d}  " + "  ".join(f"{name} {value:.4g}" for name, value in row.items()
                                                   if name in ("loss", "lr") or name.startswith("val_")), flush=True)
