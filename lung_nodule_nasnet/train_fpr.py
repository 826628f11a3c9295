"""Train the optional false-positive reducer: python train_fpr.py --data-dir LUNA16 --candidates candidates_V2.csv

candidates: a table seriesuid,coordX,coordY,coordZ,class (1: nodule), as LUNA16's candidates_V2.csv or what test.py
writes (candidates_class.csv). Of those that are none so many are drawn as there are nodules, afresh in each epoch.
Writes fpr.npz for `test.py --reducer` and `predict.py --reducer`.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.config import ROOT
from lung_nodule_nasnet.scans import Scan, find_scans, read_scan
from shared_data.cohort import each_case, say_skipped
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import read_table
from shared_data.folds import natural_sort
from shared_data.named_types import Floats, Labels, StrPath
from shared_data.settings import parse_options
from shared_data.volume import to_lps

COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "class"]


Patches = tuple[Floats, Labels]  # (patches (n, 32, 32), their classes: 1 is nodule)


@dataclass(frozen=True)
class Options:
    data_dir: Path  # the scans: LUNA16 or LIDC-IDRI
    candidates: Path  # table of candidates with their class
    output: Path = ROOT / "runs" / "lung_nodule_nasnet" / "fpr.npz"  # the trained reducer
    epochs: int = 50  # passes
    batch_size: int = 32  # patches in one update
    lr: float = 1e-4  # of Adam (authors' comment: 1e-5)
    validation_share: float = 0.2  # of the scans
    seed: int = 85  # of weights, order and drawing

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or not self.lr > 0 or not 0 < self.validation_share < 1:
            raise ValueError("--epochs and --batch-size must be at least 1, --lr positive, --validation-share in 0..1.")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    listed = read_candidates(options.candidates)
    scans = {scan.uid: scan for scan in find_scans(options.data_dir)[0] if scan.uid in listed}
    if len(scans) < 2:
        raise InputError(f"{options.candidates}: {len(scans)} of its scans lie in {options.data_dir}; two are needed.")
    uids = natural_sort(scans)
    skipped: dict[str, str] = {}
    patches: dict[str, Patches] = {}
    for uid, outcome in each_case(lambda uid: cut_patches(scans[uid], listed[uid]), uids, 0, "scan"):
        if isinstance(outcome, Skipped):
            skipped[uid] = outcome.reason
        else:
            patches[uid] = outcome
    held = set(list(patches)[-max(1, round(len(patches) * options.validation_share)):])
    train, validation = (_together([patches[uid] for uid in patches if (uid in held) == side])
                         for side in (False, True))
    for part, (_, classes) in (("training", train), ("validation", validation)):
        if set(classes.tolist()) != {0, 1}:
            raise InputError(f"{options.candidates}: the {part} scans need candidates of both classes. Give more.")
    fit(options, train, validation)
    return say_skipped(skipped)


def _together(scans: list[Patches]) -> Patches:
    """The patches and classes of several scans as one."""
    return (np.concatenate([patches for patches, _ in scans] or [np.zeros(0)]),
            np.concatenate([classes for _, classes in scans] or [np.zeros(0, int)]))


def read_candidates(path: StrPath) -> dict[str, list[list[float]]]:
    """{series uid: rows (x, y, z, class)} of the table."""
    found: dict[str, list[list[float]]] = {}
    for line, row in enumerate(read_table(path, COLUMNS), 2):
        try:
            place = [float(row[name]) for name in COLUMNS[1:]]
            if not np.isfinite(place).all() or place[3] not in (0, 1):
                raise ValueError
        except (TypeError, ValueError):
            raise InputError(f"{path}: line {line} is no place (mm) with a class of 0 or 1. Correct it.") from None
        found.setdefault(row["seriesuid"].strip(), []).append(place)
    return found


def cut_patches(scan: Scan, rows: Sequence[Sequence[float]]) -> Patches | Skipped:
    """(patches, classes) of a scan's candidates; `Skipped` where the scan cannot be used."""
    from lung_nodule_nasnet.reducer import cut_patch
    try:
        image = to_lps(read_scan(scan).image)
        return np.stack([cut_patch(image, row[:3]) for row in rows]), np.array([int(row[3]) for row in rows])
    except (InputError, OSError) as error:
        return Skipped(one_line(error))


def fit(options: Options, train: Patches, validation: Patches) -> None:
    from lung_nodule_nasnet import quiet  # noqa: F401
    from lung_nodule_nasnet.reducer import build_reducer, save_reducer
    import keras
    keras.utils.set_random_seed(options.seed)
    network = build_reducer()
    network.compile(keras.optimizers.Adam(options.lr), "sparse_categorical_crossentropy", jit_compile=False)
    patches, classes = train
    nodules, others = np.flatnonzero(classes == 1), np.flatnonzero(classes == 0)
    best = np.inf
    for epoch in range(options.epochs):
        rng = np.random.default_rng([options.seed, epoch])
        drawn = rng.permutation([*nodules, *rng.choice(others, min(len(nodules), len(others)), replace=False)])
        flipped = patches[drawn][:, ::rng.choice([-1, 1]), ::rng.choice([-1, 1]), None]
        loss = network.fit(flipped, classes[drawn], batch_size=options.batch_size, verbose=0).history["loss"][0]
        probability = network.predict(validation[0][..., None], verbose=0)[:, 1]
        true = np.where(validation[1] == 1, probability, 1 - probability)
        val_loss = float(np.mean([-np.log(np.maximum(true[validation[1] == kind], 1e-7)).mean() for kind in (0, 1)]))
        if val_loss < best:
            best = val_loss
            save_reducer(options.output, network, {"epoch": epoch + 1, "val_loss": val_loss})
        print(f"epoch {epoch + 1:3d}  loss {loss:.4f}  val loss {val_loss:.4f}", flush=True)
    print(f"best validation loss {best:.4f} (both classes weighing the same): {options.output}")


if __name__ == "__main__":
    run_script(main)
