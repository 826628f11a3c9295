"""The training loop: Keras fits one epoch after another, each repeatable from its number."""
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from lung_nodule_nasnet.checkpoint import load_checkpoint, save_checkpoint, set_weights
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.devices import choose_strategy
from lung_nodule_nasnet.losses import dice_coefficient, gdl_wce_loss
from lung_nodule_nasnet.lungs import CONSTANTS
from lung_nodule_nasnet.nasnet_v2 import build_network
from lung_nodule_nasnet.slice_idx import split_of
from lung_nodule_nasnet.table import Columns, read_columns
from shared_data.errors import InputError
from shared_data.files import write_json, write_table
from shared_data.named_types import Array, Row
from shared_data.settings import to_plain
from shared_results.pictures import draw_curves

ENCODER_BN_MOMENTUM = 0.9997  # NASNet's own


def train(config: Config) -> None:
    """All epochs, from the start or from last.npz."""
    last = config.run_dir / "last.npz"
    _, train_slices, val_slices, used = build_sequences(config)
    warn_of_lag(len(train_slices), config)
    strategy = choose_strategy(config.device, config.devices)
    keras.utils.set_random_seed(config.seed)
    with strategy.scope() if strategy else nullcontext():
        network = build_network(config)
        optimizer = keras.optimizers.SGD(config.lr, momentum=config.momentum)
        network.compile(optimizer, lambda truth, output: gdl_wce_loss(truth, output) / config.devices,  # Keras sums
                        jit_compile=False, run_eagerly=not config.compiled)
        optimizer.build(network.trainable_variables)
        if config.finetune and not config.resume:
            set_weights(network, load_checkpoint(config.finetune)[1].get("weights", []), config.finetune)
        history, best_dice, stalled = [], -1.0, 0
        if config.resume:
            state, groups = load_checkpoint(last)
            set_weights(network, groups["weights"], last)
            set_weights(optimizer, groups["optimizer"], last)
            history, best_dice, stalled = state["history"], state["best_dice"], state["stalled"]
            used = {name: sorted({*names, *state.get(name, [])}) for name, names in used.items()}
    write_json(config.run_dir / "config.json", to_plain(config))
    forward = partial(network, training=False)
    if config.compiled:
        forward = tf.function(forward, reduce_retracing=True)
    board = tf.summary.create_file_writer(str(config.run_dir / "tensorboard"))

    print(f"{config.epochs - len(history)} epochs of {len(train_slices)} updates", flush=True)
    while len(history) < config.epochs:
        epoch = len(history)
        keras.utils.set_random_seed(config.seed + epoch)  # a resumed run meets the same chance
        row = {"epoch": epoch + 1, "lr": float(array_of(optimizer.learning_rate))}
        row |= train_one_epoch(network, train_slices, epoch, config)
        row |= validate(forward, val_slices)
        history.append(row)
        better = row["val_dice"] > best_dice
        best_dice = max(best_dice, row["val_dice"])
        stalled = 0 if better or not best_dice else stalled + 1  # before the first true pixel nothing stalls
        if stalled >= config.lr_patience:
            optimizer.learning_rate = max(config.min_lr, row["lr"] * config.lr_factor)
            stalled = 0
        state = {"config": to_plain(config), "constants": CONSTANTS, "history": history, "best_dice": best_dice,
                 "stalled": stalled, **used}
        weights = [array_of(variable) for variable in network.variables]
        # last.npz comes last: whatever moment a kill comes, the run goes on as if there had been none.
        if better:
            save_checkpoint(config.run_dir / "best.npz", state, weights=weights)
        report(config.run_dir, history, board)
        save_checkpoint(last, state, weights=weights, optimizer=[array_of(value) for value in optimizer.variables])
    board.close()
    print(f"best validation Dice {best_dice:.4f} after {len(history)} epochs: {config.run_dir}")


def warn_of_lag(steps: int, config: Config) -> None:
    """Validation normalises by running averages: in a run too short for theirs it scores 0, whatever was learnt."""
    needed = math.ceil(3 / (1 - ENCODER_BN_MOMENTUM) / steps)
    if config.bn_momentum is None and not config.finetune and config.epochs < needed:
        print(f"{config.epochs} epochs of {steps} steps are too few for the encoder's batch normalisation: validation "
              f"lags behind. Give --bn-momentum 0.9, or {needed} epochs.")


def array_of(variable: keras.Variable) -> Array:
    """The value of a variable, one copy of it where devices share the work."""
    return keras.ops.convert_to_numpy(variable)


def build_sequences(config: Config) -> tuple[Columns, SliceSequence, SliceSequence, dict[str, list[str]]]:
    """(columns of the table, training batches, validation batches, what they are made of)."""
    path = config.prepared_dir / "table.h5"
    columns = read_columns(path)
    if columns["size"] != config.size:
        raise InputError(f"{path}: slices of {columns['size']} pixels, the prepared ones have {config.size}. Run "
                         "table.py again.")
    split = split_of(config, columns)
    used = {f"{part}_series": sorted({columns["series_uids"][i] for i in split[part]})
            for part in ("train", "validation")}
    used["trained_on"] = sorted({columns["subject_ids"][i] for i in split["train"]})
    return (columns, SliceSequence(path, split["train"], config, augmented=True),
            SliceSequence(path, split["validation"], config, augmented=False), used)


def train_one_epoch(network: keras.Model, slices: SliceSequence, epoch: int, config: Config) -> dict[str, float]:
    """One pass over the training slices; the mean loss."""
    slices.epoch = epoch
    bar = Progress(len(slices), f"epoch {epoch + 1}/{config.epochs}")
    try:
        done = network.fit(slices, epochs=epoch + 1, initial_epoch=epoch, shuffle=False, verbose=0, callbacks=[bar])
    except tf.errors.OpError as error:  # what a loading process raises comes as text
        if "InputError: " in error.message:
            raise InputError(error.message.split("InputError: ")[1].splitlines()[0]) from error
        raise
    return {"loss": float(done.history["loss"][0])}


class Progress(keras.callbacks.Callback):
    """A progress bar, and an error when the loss is no longer a number."""

    def __init__(self, n_batches: int, name: str) -> None:
        super().__init__()
        self.bar = tqdm(total=n_batches, desc=name, unit="batch", leave=False, disable=None)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        assert logs
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            self.bar.close()
            raise InputError(f"loss {loss} in batch {batch + 1}. Try a smaller --lr.")
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.bar.close()


def validate(forward: Callable[[Any], Any], slices: SliceSequence) -> dict[str, float]:
    """Loss and scores of the nodule's pixels over all validation slices together, cut at probability 0.5."""
    loss, soft, counts = [], [], np.zeros(3)  # overlap, reference, prediction
    for number in range(len(slices)):
        image, reference = slices[number]
        probability = forward(keras.ops.convert_to_tensor(image))
        loss.append(float(gdl_wce_loss(reference, probability)))
        soft.append(float(dice_coefficient(reference, probability)))
        drawn, marked = reference[..., 1] > 0, probability.numpy()[..., 1] > 0.5
        counts += (drawn & marked).sum(), drawn.sum(), marked.sum()
    overlap, n_reference, n_marked = counts
    return {"val_loss": float(np.mean(loss)), "val_dice": float(2 * overlap / (n_reference + n_marked)),
            "val_soft_dice": float(np.mean(soft)), "val_sensitivity": float(overlap / n_reference),
            "val_precision": float(overlap / n_marked) if n_marked else 0.0}


def report(run_dir: Path, history: Sequence[Row], board: tf.summary.SummaryWriter) -> None:
    row = history[-1]
    write_table(run_dir / "history.csv", history)
    draw_curves(history, run_dir / "curves.png",
                {"loss": ["loss", "val_loss"], "validation": ["val_dice", "val_sensitivity", "val_precision"]})
    with board.as_default(step=row["epoch"]):
        for name in row.keys() - {"epoch"}:
            tf.summary.scalar(name, row[name])
    print(f"epoch {row['epoch']:3d}  loss {row['loss']:.4f}  val Dice {row['val_dice']:.4f}  "
          f"sensitivity {row['val_sensitivity']:.3f}  lr {row['lr']:.1e}", flush=True)
