"""Every setting of SepNet: edit the defaults here, or pass `--name value` to the scripts that prepare and train."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared_data import openkbp
from shared_data.named_types import Dataclass, Values
from shared_data.organs import check_organs, read_label_table
from shared_data.settings import Cluster, Device, Precision, at_least, given_options, require

ROOT = Path(__file__).resolve().parents[1]
METHOD = "3D-SepNet"
Loss = Literal["attention_exp_dice", "exp_dice", "soft_dice", "focal", "focal_dice"]
Transform = Literal["multi_thresh_1", "multi_thresh_2", "multi_thresh_3", "single_window"]
Points = tuple[float, ...]

# Control points of the intensity functions: HU, value, HU, value, ... Folders and checkpoints that do not record theirs
# were made with these, so do not edit them: change the settings of the same names.
CONTROL_POINTS = {
    "multi_thresh_1": (-500.0, 0.0, -100.0, 0.1, 400.0, 0.8, 1500.0, 1.0),
    "multi_thresh_2": (-500.0, 0.0, -100.0, 0.2, 200.0, 0.8, 1500.0, 1.0),
    "multi_thresh_3": (-500.0, 0.0, -100.0, 0.2, 100.0, 0.8, 1500.0, 1.0),
    "single_window": (-200.0, 0.0, 400.0, 1.0),
}
MEMBERS = tuple((transform, alpha) for transform in ("multi_thresh_1", "multi_thresh_2", "multi_thresh_3")
                for alpha in (0.5, 1.0))  # the ensemble (paper)

STRUCTSEG = {"organs": ("brain stem", "eye L", "eye R", "lens L", "lens R", "optic nerve L", "optic nerve R",
                        "optic chiasm", "temporal lobe L", "temporal lobe R", "pituitary", "parotid L", "parotid R",
                        "inner ear L", "inner ear R", "middle ear L", "middle ear R", "TM joint L", "TM joint R",
                        "spinal cord", "mandible L", "mandible R"),
             "weights": (100, 100, 100, 50, 50, 80, 80, 50, 80, 80, 80, 50, 50, 70, 70, 70, 70, 60, 60, 100, 100, 100)}
# By layout: names of the labels 1, 2, ... and their weights in the score (StructSeg 2019, task 1; OpenKBP has none).
TABLES: dict[str, dict[str, Any]] = {"structseg": STRUCTSEG, "openkbp": {"organs": openkbp.ORGANS, "weights": None}}


@dataclass(frozen=True)
class Volumes:
    """What shapes the prepared volumes: kept with them, taken over by training, recorded with a network.

    The comment behind a field is its help text; brackets name the source of the value.
    """

    layout: Literal["structseg", "openkbp"] = "structseg"  # of data_dir; openkbp: a clone of OpenKBP
    organs: tuple[str, ...] | None = None  # names of the labels 1, 2, ...; unset: the layout's
    n_classes: int | None = None  # background included; unset: from the organs (StructSeg: 23)
    split: float = 0.8  # share of patients for training, if data_dir is not already split (ours)
    crop_size: int = 256  # side of the centre crop, voxels, divisible by 8 (paper)
    resample: bool = False  # resample to spacing_zyx before cropping (authors: optional)
    spacing_zyx: tuple[float, float, float] = (3.0, 1.0, 1.0)  # mm, used with --resample (authors)
    plain_window: bool = False  # also write single_window, for comparison

    # Intensity functions: 0 below the first point, linear between points, the last value from the last point on.
    multi_thresh_1: Points = CONTROL_POINTS["multi_thresh_1"]  # HU value HU value ... (authors, documented)
    multi_thresh_2: Points = CONTROL_POINTS["multi_thresh_2"]  # the same (the author's later code on the same data)
    multi_thresh_3: Points = CONTROL_POINTS["multi_thresh_3"]  # the same (the author's later code on the same data)
    single_window: Points = CONTROL_POINTS["single_window"]  # the same, a plain window (authors)


@dataclass(frozen=True)
class Prepare(Volumes, Cluster):
    """Settings of preprocess.py."""

    data_dir: Path = ROOT / "data" / "raw" / "sepnet"  # cohort: <patient>/data.nii.gz, flat or below train/ and valid/
    prepared_dir: Path = ROOT / "data" / "prepared" / "sepnet"  # cropped and transformed volumes
    weights: tuple[float, ...] | None = None  # of the organs in the weighted score; unset: the challenge's, or 1
    rois: Path | None = None  # JSON {organ: names or patterns of ROIs} for RTSTRUCTs; unset: common spellings
    workers: int = 2  # processes that prepare cases


@dataclass(frozen=True)
class Run:
    """Where and for how long a network is trained: settings that may change with --resume."""

    prepared_dir: Path = Prepare.prepared_dir  # cropped and transformed volumes
    run_dir: Path | None = None  # settings, checkpoints, results; unset: runs/sepnet/<network>/<transform>_alpha<alpha>
    epochs: int = 400  # of steps_per_epoch updates (authors)
    resume: bool = False  # continue from last.pt in the run folder
    window_batch: int = 1  # windows per forward pass (ours)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    devices: int = 1  # GPUs (or CPU processes) per machine
    num_nodes: int = 1  # machines
    compile: bool = False  # torch.compile: minutes of compiling, then faster steps on some devices
    workers: int = 2  # processes that draw patches


@dataclass(frozen=True)
class Train(Run):
    """Settings of train.py, beside those that preparation kept."""

    weights: tuple[float, ...] | None = None  # of the organs in the weighted score; unset: as prepared
    precision: Precision = "auto"  # auto: bf16-mixed if the device supports it, else 32-true

    # Training
    val_fold: int | None = None  # patient fold to validate on, from 1, instead of the prepared split (ours)
    transform: Transform = "multi_thresh_1"  # intensity function (authors)
    patch_zyx: tuple[int, int, int] = (16, 120, 120)  # voxels, divisible by 8 (paper)
    batch_size: int = 4  # patches per update, each of another patient, over all devices (authors)
    steps_per_epoch: int = 100  # updates per epoch (authors)
    loss: Loss = "attention_exp_dice"  # loss function (paper)
    alpha: float = 0.5  # of attention_exp_dice: small values stress hard voxels; some members have 1 (paper)
    undrawn: Literal["marginal", "original"] = "marginal"  # original: the published loss alone (authors)
    normalisation: Literal["original", "paper"] = "original"  # of the log-Dice, as in the authors' code or the paper
    lr: float = 1e-3  # learning rate of Adam (authors)
    lr_factor: float = 0.9  # factor on the learning rate ... (authors)
    lr_every: int = 10  # ... every so many epochs (authors)
    weight_decay: float = 1e-8  # of Adam (authors)
    augment: bool = False  # zoom and rotate patches (authors: optional)
    zooms: tuple[float, float, float] = (0.8, 1.0, 1.2)  # factors to choose from (authors)
    rotate_degrees: float = 15.0  # largest angle, about a random axis (authors)
    validate_every: int = 1  # epochs between validations over whole cases (authors)
    seed: int = 2019  # of weights, sampling and augmentation (ours)
    all_members: bool = False  # train all six members of the ensemble, one after the other

    # Network
    network: Literal["sepnet", "unet"] = "sepnet"  # unet: the 3-D U-Net that the paper compares with
    separate_direction: Literal["axial", "sagittal", "coronal"] = "axial"  # plane of the (1, 3, 3) kernels (paper)
    base_channels: int = 24  # width of the network (authors)
    dropout: float = 0.5  # at the bottleneck (authors)
    channel_dropout: float = 0.1  # before the classifier (authors)

    # Inference
    window_slices: int = 16  # slices per window, divisible by 8 (authors)
    window_step: int = 2  # slices between windows (authors)


@dataclass(frozen=True)
class Config(Train, Prepare):
    """All settings, as checkpoints keep them."""

    UNRECORDED = CONTROL_POINTS

    if TYPE_CHECKING:  # never None after __post_init__
        run_dir: Path = ROOT
        organs: tuple[str, ...] = ()
        n_classes: int = 0
        weights: tuple[float, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ..."""
        return ("background", *self.organs)

    def __post_init__(self) -> None:
        self._fill_in_organs()
        if self.run_dir is None:
            member = f"{self.transform}_alpha{self.alpha:g}"
            folder = f"{self.network}_folds/fold{self.val_fold}" if self.val_fold else self.network
            object.__setattr__(self, "run_dir", ROOT / "runs" / "sepnet" / folder / member)
        if self.val_fold is not None:
            at_least(self, 1, "val_fold")
        at_least(self, 1, "batch_size", "steps_per_epoch", "epochs", "lr_every", "validate_every", "base_channels",
                 "window_step", "window_batch", "devices", "num_nodes")
        at_least(self, 0, "workers", "worker_memory_gb", "seed", "weight_decay", "rotate_degrees", "weights")
        for name in ("dropout", "channel_dropout"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        for name in ("lr", "alpha", "lr_factor"):
            require(self, name, 0 < getattr(self, name) < float("inf"), "must be positive")
        require(self, "split", 0 < self.split < 1, "must lie between 0 and 1")
        for name in ("crop_size", "window_slices"):
            require(self, name, getattr(self, name) >= 16 and getattr(self, name) % 8 == 0,
                    "must be divisible by 8 and at least 16")
        require(self, "window_step", self.window_step <= self.window_slices, "must not exceed --window-slices")
        require(self, "patch_zyx", all(n >= 16 and n % 8 == 0 for n in self.patch_zyx),
                "must be divisible by 8 and at least 16 along each axis")
        for name in ("spacing_zyx", "zooms"):
            require(self, name, all(0 < value < 50 for value in getattr(self, name)), "must be positive and below 50")
        for name in CONTROL_POINTS:
            points = getattr(self, name)
            rising = all(low < high for low, high in zip(points[::2], points[2::2]))
            require(self, name, len(points) >= 4 and len(points) % 2 == 0 and rising,
                    "must be HU and value by turns, at least twice, HU rising")

    def control_points(self, name: str | None = None) -> Points:
        """Control points of the intensity function `name`, by default `transform`."""
        return getattr(self, name or self.transform)

    def _fill_in_organs(self):
        """Fill in organs, weights and n_classes from the layout's table; n_classes alone takes its first organs, and
        adds unnamed ones of weight 0 if there are more classes."""
        table = TABLES[self.layout]
        organs, weights = self.organs or table["organs"], self.weights or ()
        if not self.organs and self.n_classes:
            at_least(self, 2, "n_classes")
            organs = (*organs, *(f"label {label}" for label in range(len(organs) + 1, self.n_classes)))
            organs = organs[:self.n_classes - 1]
        if not weights:
            known = dict(zip(table["organs"], table["weights"] or ())) if organs[0] == table["organs"][0] else {}
            weights = tuple(float(known.get(name, 0 if known else 1)) for name in organs)
        check_organs(organs, ())
        filled = {"organs": organs, "weights": weights, "n_classes": self.n_classes or len(organs) + 1}
        for name, value in filled.items():
            object.__setattr__(self, name, value)
        require(self, "n_classes", self.n_classes == len(organs) + 1, f"does not fit the {len(organs)} organs")
        require(self, "weights", len(weights) == len(organs), f"must be {len(organs)} numbers: {', '.join(organs)}")


@dataclass(frozen=True)
class PrepareOptions(Prepare):
    label_table: Path | None = None  # JSON: organs with their labels and weights; unset: the layout's


STEPS = {"preprocess.py": PrepareOptions, "train.py": Train}


def given_settings(argv: Sequence[str] | None, description: str | None,
                   options_class: type[Dataclass] = PrepareOptions) -> Values:
    """The options given, with a label table turned into the settings `organs` and `weights`. Raises InputError."""
    given = given_options(options_class, argv, description, STEPS)
    if path := given.pop("label_table", None):
        table = read_label_table(path)
        given = {"organs": table["organs"], "weights": table["weights"] or (1.0,) * len(table["organs"]), **given}
    return given
