"""Find the nodules of one CT: python predict.py --input ct.nii.gz --output mask.nii.gz

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series; any orientation. The mask lies on the CT's own grid;
beside it come <name>_nodules.csv, <name>_overlay.png, <name>_viewer.html (opens in a browser) and <name>.json (volumes
in ml, nodules). A folder of CTs or a CSV of paths as input and a folder as output: the same for each, cases.csv and
report.html; started again, it goes on.
Several checkpoints, or --ensemble RUNS (the folds of crossval.py): their mean probability; <name>_uncertainty.nii.gz is
the entropy of their votes, its mean over each nodule stands in the JSON.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.checkpoint import SHIPPED, load_network
from lung_nodule_nasnet.config import METHOD, Config, Device, ThresholdRule
from lung_nodule_nasnet.members import find_folds, load_members
from lung_nodule_nasnet.postprocess import NODULE_COLUMNS, find_nodules
from lung_nodule_nasnet.reducer import load_reducer, rate
from shared_data.ct_cases import Case
from shared_data.errors import InputError, run_script
from shared_data.named_types import Values
from shared_data.settings import parse_options, set_options, with_changes
from shared_data.volume import geometry, onto_scan, without_suffix
from shared_data.votes import disagreement, most_disputed, vote_entropy
from shared_results.ensembles import EnsembleOptions, as_fact, uncertainty_path, with_members
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.outputs import Prediction, ResultOptions
from shared_results.pictures import mask_sheet
from shared_results.predicting import Method, predict
from shared_results.stopwatch import Stopwatch
from shared_results.sweep import without_small
from shared_results.views import ViewOptions

if TYPE_CHECKING:
    import keras


Loaded = tuple[list["keras.Model"], Config, "keras.Model | None"]  # (networks, their Config, reducer)
WINDOW_HU = (-1200.0, 300.0)  # of the pictures


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions, EnsembleOptions, ViewOptions, NodePoint):
    checkpoint: tuple[Path, ...] = (SHIPPED,)  # of train.py, or a Keras .h5 of the authors; unset: what ships (LIDC)
    reducer: Path | None = None  # fpr.npz of train_fpr.py, which rates the nodules again
    min_probability: float = 0.0  # nodules below it are left out
    threshold_rule: ThresholdRule | None = None  # how a slice is cut; unset: the checkpoint's
    centre_distance: float | None = None  # of the two class centres of a slice; unset: the checkpoint's
    cut: float | None = None  # probability above which a pixel is nodule, rule cut; unset: the checkpoint's
    erode: bool | None = None  # erode the mask of a slice by 5x5; unset: the checkpoint's
    min_pixels: int | None = None  # a slice with fewer mask pixels counts as empty; unset: the checkpoint's
    predict_batch: int | None = None  # slices at a time; unset: the checkpoint's
    save_probability: Path | None = None  # write the probability of each voxel there (of several CTs: a folder)
    device: Device = "auto"  # auto: gpu where there is one

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"--min-probability {self.min_probability} must lie in 0..1.")

    def networks(self) -> tuple[Path, ...]:
        return (*super().networks(), *([self.reducer] if self.reducer else []))

    def more_volumes(self) -> list[Path]:
        return [self.save_probability] if self.save_probability else []

    def for_case(self, case: Case) -> "Options":
        options, folder = super().for_case(case), self.save_probability
        name = options.output.name.replace(case.name, f"{case.name}_probability", 1)
        return replace(options, save_probability=folder / name) if folder else options


def main(argv: Sequence[str] | None = None) -> int:
    options = with_operating_point(parse_options(Options, argv, __doc__), METHOD)
    options = with_members(options, find_folds)
    if options.checkpoint == (SHIPPED,):
        print(f"weights: {SHIPPED} (narrow network, crops of LIDC-IDRI, for research)")
    return predict(options, Method(METHOD, load, segment_ct, WINDOW_HU))


def load(options: Options) -> "Loaded":
    """(networks, their Config with the options, the reducer or None)"""
    changes = set_options(options, "threshold_rule", "centre_distance", "cut", "erode", "min_pixels", "predict_batch")
    networks, config = load_members(options.checkpoint, lambda path: prepare_network(path, options.device, changes,
                                                                                     options.tta))
    return networks, config, load_reducer(options.reducer) if options.reducer else None


def segment_ct(loaded: "Loaded", ct: sitk.Image, options: Options, watch: Stopwatch) -> Prediction:
    """The `Prediction` of a CT as read."""
    from lung_nodule_nasnet.inference import segment_members
    networks, config, reducer = loaded
    mask, probability, lps, votes = segment_members(networks, ct, config, watch.network)
    mask = without_small(mask > 0, math.prod(lps.GetSpacing()) / 1000, options.smallest_ml).astype(np.uint8)
    nodules, labels = find_nodules(mask, probability, lps)
    if reducer:
        nodules = rate(reducer, nodules, lps)
    nodules = [nodule for nodule in nodules if nodule["probability"] >= options.min_probability]
    mask = np.isin(labels, [nodule["label"] for nodule in nodules]).astype(np.uint8)
    scan, total = geometry(ct), sum(nodule["volume_ml"] for nodule in nodules)
    volumes = {options.save_probability: onto_scan(probability, scan)} if options.save_probability else {}
    entropy = None if votes is None else vote_entropy(votes)
    if entropy is not None:
        of_nodule = disagreement(entropy, labels, [nodule["label"] for nodule in nodules])
        nodules = [nodule | of_nodule[nodule["label"]] for nodule in nodules]
        volumes[uncertainty_path(options.output)] = onto_scan(entropy, scan)
    return Prediction(
        labels=onto_scan(mask, scan), names={1: "nodule"},
        facts={**as_fact(options.checkpoint), "tta": options.tta, "smallest_ml": options.smallest_ml,
               "components": nodules, "volume_ml": total},
        picture=mask_sheet(sitk.GetArrayViewFromImage(lps), mask, WINDOW_HU),
        found=f"{len(nodules)} nodules, {total:.2f} ml",
        row={"volume_ml": total, "nodules": len(nodules), **most_disputed(nodules, entropy)}, volumes=volumes,
        tables={Path(f"{without_suffix(options.output)}_nodules.csv"): (nodules, NODULE_COLUMNS)})


def prepare_network(checkpoint: Path, device: str, changes: Values, tta: bool = False) -> "tuple[keras.Model, Config]":
    """(network, its Config with `changes`), on the device; tta: one that averages over the flips of its training.

    Raises InputError where there were none.
    """
    from lung_nodule_nasnet.devices import choose_strategy
    choose_strategy(device, 1)
    network, config = load_network(checkpoint)
    if tta:
        from lung_nodule_nasnet.inference import Averaged, views_of
        if len(views := views_of(config)) == 1:
            raise InputError(f"{checkpoint}: has learnt from no flipped slices. Leave out --tta.")
        network = Averaged(network, views)
    return network, with_changes(config, changes)


if __name__ == "__main__":
    from lung_nodule_nasnet import predict as module  # under the name by which other processes find what it hands them
    run_script(module.main)
