"""Score a trained network: python test.py [--scans LUNA16 [--excluded annotations_excluded.csv]]

Without --scans: the validation slices of the table, slice by slice. With it: whole scans (LUNA16 or LIDC-IDRI) against
a table of nodules (annotations.csv), FROC and CPM as LUNA16 counts them; scans that training has seen are left out.
Writes to the output folder: cases.csv, summary.json, overlays/, report.html; without --scans also slices.csv,
calibration.csv and .png, with it viewer/, candidates.csv (the challenge's form), candidates_class.csv (for
train_fpr.py) and froc.png.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lung_nodule_nasnet.checkpoint import load_checkpoint
from lung_nodule_nasnet.config import METHOD, ROOT, Config, Device, ThresholdRule
from lung_nodule_nasnet.members import find_folds
from shared_data.errors import InputError, run_script
from shared_data.settings import config_from_dict, parse_options, set_options
from shared_results.ensembles import EnsembleOptions, with_members
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.scoring import ScoringOptions
from shared_results.views import ViewOptions

OF_THE_RUN = ("prepared_dir", "threshold_rule", "centre_distance", "cut", "erode", "min_pixels", "predict_batch")


@dataclass(frozen=True)
class Options(EnsembleOptions, ViewOptions, NodePoint, ScoringOptions):
    run_dir: Path = ROOT / "runs" / "lung_nodule_nasnet"  # folder of a run
    checkpoint: tuple[Path, ...] | None = None  # unset: best.npz of the run folder; or a Keras .h5 of the authors
    prepared_dir: Path | None = None  # holds the validation slices; unset: where the run was trained
    scans: Path | None = None  # folder of whole scans to score; unset: the validation slices
    nodules: Path | None = None  # their nodules; unset: annotations.csv in --scans
    excluded: Path | None = None  # findings that count neither way (annotations_excluded.csv)
    seen_scans: bool = False  # also score scans used in training
    reducer: Path | None = None  # fpr.npz of train_fpr.py
    bootstrap_samples: int = 1000  # resampled sets of scans for the 95 % interval
    output_dir: Path | None = None  # unset: <run folder>/validation or /scans
    threshold_rule: ThresholdRule | None = None  # how a slice is cut; unset: the checkpoint's
    centre_distance: float | None = None  # of the two class centres of a slice; unset: the checkpoint's
    cut: float | None = None  # probability above which a pixel is nodule, rule cut; unset: the checkpoint's
    erode: bool | None = None  # erode the mask of a slice by 5x5; unset: the checkpoint's
    min_pixels: int | None = None  # a slice with fewer mask pixels counts as empty; unset: the checkpoint's
    predict_batch: int | None = None  # slices at a time; unset: the checkpoint's
    device: Device = "auto"  # auto: gpu where there is one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bootstrap_samples < 1:
            raise ValueError("--bootstrap-samples must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options in which nothing of this is unset any more."""

    checkpoint: tuple[Path, ...]
    output_dir: Path


def main(argv: Sequence[str] | None = None) -> int:
    options = with_operating_point(parse_options(Options, argv, __doc__), METHOD)
    if options.ensemble:
        options = replace(options, run_dir=options.ensemble / "ensemble")
    options = with_members(options, find_folds)
    options = Filled(**{
        **vars(options), "checkpoint": options.checkpoint or (options.run_dir / "best.npz",),
        "output_dir": options.output_dir or options.run_dir / ("scans" if options.scans else "validation")})
    if options.sweep and options.scans:
        raise InputError("--sweep counts on the validation slices. Leave out --scans.")
    states = {path: load_checkpoint(path)[0] for path in options.checkpoint}
    first = options.checkpoint[0]
    config = config_from_dict(Config, states[first]["config"], first, set_options(options, *OF_THE_RUN))
    from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow takes seconds to load: not for --help
    if options.scans:
        from lung_nodule_nasnet.score_scans import score_scans
        return score_scans(options, config, {name for state in states.values() for part in (
            "train_series", "validation_series") for name in state.get(part, [])})
    from lung_nodule_nasnet.score_slices import score_slices
    return score_slices(options, config, {path: state.get("trained_on", []) for path, state in states.items()})


if __name__ == "__main__":
    from lung_nodule_nasnet import test as module  # under the name by which other processes find what it hands them
    run_script(module.main)
