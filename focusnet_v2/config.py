"""Every setting of FocusNet: edit the defaults here, or give `--name value` to the scripts that prepare and train."""
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shared_data import openkbp
from shared_data.organs import check_organs
from shared_data.settings import Cluster, Device, Precision, at_least, require

ROOT = Path(__file__).resolve().parents[1]
METHOD = "FocusNet v2"

# By layout: labels 1, 2, ..., which of them are small, the weight of each class in the focal loss, background first.
PDDCA: dict[str, Any] = {
    "organs": ("BrainStem", "Chiasm", "Mandible", "OpticNerve_L", "OpticNerve_R", "Parotid_L", "Parotid_R",
               "Submandibular_L", "Submandibular_R"),
    "small": ("Chiasm", "OpticNerve_L", "OpticNerve_R"), "alpha": (0.5, 1, 8, 1, 8, 8, 1, 1, 2, 2)}  # authors
TABLES = {"pddca": PDDCA, "openkbp": {"organs": openkbp.ORGANS, "small": (), "alpha": None}}
BACKGROUND_WEIGHT, SMALL_WEIGHT = PDDCA["alpha"][0], PDDCA["alpha"][2]  # where a label table names no weights

# The stages in order, each with the prefix of its own settings.
STAGES = {"backbone": "backbone", "SOL": "sol", "backbone_heatmap": "joint", "autoencoder": "ae", "adversarial": "adv"}


@dataclass(frozen=True)
class Volumes:
    """What decides how the resampled volumes look: kept with them, taken over by what follows, recorded with a network.

    The comment behind a field is its help text; in brackets where the value comes from.
    """

    layout: Literal["pddca", "openkbp"] = "pddca"  # of data_dir; openkbp: a clone of OpenKBP
    organs: tuple[str, ...] | None = None  # names of the labels 1, 2, ...; unset: the layout's
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 2.5)  # mm, of what the networks see (authors)
    resample_axes: Literal["named", "original"] = "named"  # original: x and y spacing swapped, as the authors' code


@dataclass(frozen=True)
class Table:
    """What else a label table says: taken over from preparation, unless training is given something else."""

    small: tuple[str, ...] | None = None  # organs with a heatmap and a branch of their own; unset: the layout's
    alpha: tuple[float, ...] | None = None  # class weights of the focal loss, background first; unset: the layout's


@dataclass(frozen=True)
class Organs(Volumes, Table):
    if TYPE_CHECKING:  # never None once they are filled in
        organs: tuple[str, ...] = ()
        small: tuple[str, ...] = ()
        alpha: tuple[float, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes 0, 1, ..."""
        return ("background", *self.organs)

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def small_labels(self) -> tuple[int, ...]:
        return tuple(self.classes.index(name) for name in self.small)

    @property
    def n_small(self) -> int:
        return len(self.small)

    def fill_in_organs(self) -> None:
        """The layout's table where nothing else is said; weights by what is small."""
        table, filled = TABLES[self.layout], dict[str, Any]()
        if self.organs in (None, table["organs"]):
            filled = {name: getattr(self, name) or table[name] for name in ("organs", "alpha")}
            filled["small"] = table["small"] if self.small is None else self.small
        else:
            filled = {"organs": self.organs, "small": self.small or (), "alpha": self.alpha}
        check_organs(filled["organs"], filled["small"])
        filled["alpha"] = filled["alpha"] or default_weights(filled["organs"], filled["small"])
        for name, value in filled.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Prepared:
    prepared_dir: Path = ROOT / "data" / "prepared" / "focusnet_v2"  # resampled/, cropped/, cases.csv, presence.csv


@dataclass(frozen=True)
class Prepare(Organs, Prepared, Cluster):  # what data_preprocess.py reads
    data_dir: Path = ROOT / "data" / "raw" / "focusnet_v2"  # cohort: <case>/img.nrrd, <case>/structures/*.nrrd
    rois: Path | None = None  # JSON {organ: ROI names or patterns} of RTSTRUCTs; unset: common spellings
    workers: int = 2  # processes that prepare cases


@dataclass(frozen=True)
class Seen:
    """What of a CT is segmented: at least a patch."""

    patch_zyx: tuple[int, int, int] = (40, 192, 192)  # voxels; z even, y and x divisible by 4 (authors)
    window_side: int | None = None  # of the central square that is segmented, voxels (authors: 192); unset: the head

    def check_seen(self) -> None:
        require(self, "patch_zyx", self.patch_zyx[0] % 2 == 0 and all(n % 4 == 0 for n in self.patch_zyx[1:]),
                "must be even along z and divisible by 4 along y and x")
        if self.window_side is not None:
            require(self, "window_side", self.window_side % 4 == 0 and self.window_side >= max(self.patch_zyx[1:]),
                    "must be divisible by 4 and not smaller than --patch-zyx")


@dataclass(frozen=True)
class Crop(Seen, Prepared, Cluster):
    """What crop_data.py reads, beside how the cases were resampled."""

    crop_side: int = 240  # in plane, voxels (authors)
    crop_anterior: int = 50  # voxels from the brain stem's centre forward to the crop's centre (authors)
    crop_below: int = 37  # slices kept below the right parotid's centre (authors)
    crop_above: int = 12  # slices kept above the left optic nerve's centre (authors)
    split: Literal["challenge", "authors", "names"] = "challenge"  # PDDCA's lists, OpenKBP's own, or by name
    cases_csv: Path | None = None  # your own split: columns case, part (train, valid, test)
    workers: int = 2  # processes that crop cases


@dataclass(frozen=True)
class CropConfig(Crop, Organs):
    """What crop_data.py works with."""

    def __post_init__(self) -> None:
        self.fill_in_organs()
        self.check_seen()
        at_least(self, 0, "workers", "worker_memory_gb", "crop_anterior", "crop_below", "crop_above")
        require(self, "crop_side", self.crop_side >= max(self.patch_zyx[1:]), "must not be smaller than --patch-zyx")


@dataclass(frozen=True)
class Run(Prepared):
    """Where a stage is trained: what may change when it goes on with --resume."""

    run_dir: Path | None = None  # a folder for each stage; unset: runs/focusnet_v2, a fold's fold<val_fold> in it
    resume: bool = False  # go on from last.pt of the stage's folder
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    devices: int = 1  # GPUs (or CPU processes) per machine
    num_nodes: int = 1  # machines
    compile: bool = False  # torch.compile: minutes of compiling, then faster steps on some devices


@dataclass(frozen=True)
class EveryStage(Run):  # beside how the cases were prepared
    small: tuple[str, ...] | None = None  # organs with a heatmap and a branch of their own; unset: as prepared
    val_fold: int | None = None  # validate on this patient fold, from 1, of the train and valid cases (ours)
    patches_per_case: int = 1  # drawn from each case in an epoch; auto-encoder: of each small organ (authors)
    validate_every: int = 1  # epochs between validations over whole cases
    seed: int = 2019  # of weights, sampling and augmentation (ours)
    precision: Precision = "auto"  # of training; auto: bf16-mixed where the device has it, else 32-true


@dataclass(frozen=True)
class Patches(Seen):  # of CTs, from which all stages but the auto-encoder learn
    min_slices: int = 75  # shorter volumes are padded at the low end (authors)
    batch_size: int = 1  # patches in one update, over all devices (authors)
    augment: bool = True  # zoom and rotate patches (authors)
    zoom: float = 0.1  # largest relative change of size (authors)
    rotate_z: float = 5.0  # degrees, largest turn in plane (authors)
    rotate_xy: float = 10.0  # degrees, largest turn about the other axes (authors)
    affine_order: Literal["named", "original"] = "named"  # original: matrix made for (z, y, x), used as (x, y, z)
    width: int = 32  # channels at full resolution, divisible by 8 (paper)
    window_step: int = 20  # slices between windows of patch_zyx (authors)


@dataclass(frozen=True)
class FrozenParts:  # of networks that build on an earlier stage
    original_bn_drift: bool = False  # let batch-norm statistics of frozen parts drift, as the authors' code


@dataclass(frozen=True)
class Shapes:  # of small organs
    box_zyx: tuple[int, int, int] = (8, 64, 64)  # voxels around a small organ, each divisible by 8 (authors)
    ae_width: int = 64  # channels of the auto-encoder's first layer (authors)
    code_length: int = 512  # of the auto-encoder's code (authors)


@dataclass(frozen=True)
class Heatmaps:
    heatmap_sigma: float = 5.0  # of the Gaussian around a centre, voxels (authors)
    heatmap_offsets: Literal["centred", "original"] = "centred"  # original: the peak one voxel off along y and x


@dataclass(frozen=True)
class MainNetwork:
    alpha: tuple[float, ...] | None = None  # class weights of the focal loss, background first; unset: as prepared
    undrawn: Literal["marginal", "original"] = "marginal"  # one class with the background; original: none is (authors)
    dice_weight: float = 0.2  # of adaptive Dice beside the focal loss (authors)
    wide_zoom_xy: float = 0.2  # largest relative change of size in plane, in place of --zoom (authors)


@dataclass(frozen=True)
class TrainBackbone(MainNetwork, Patches, EveryStage):  # stage backbone: the main network
    backbone_epochs: int = 600  # (authors)
    backbone_lr: float = 0.1  # of SGD with momentum 0.9, weight decay 5e-4 (authors)
    backbone_warmup: int = 5  # epochs (authors)
    backbone_milestones: tuple[int, int] = (200, 400)  # epochs after which the rate is divided by 10 (authors)


@dataclass(frozen=True)
class TrainSOL(Heatmaps, FrozenParts, Patches, EveryStage):  # stage SOL: the heatmaps, on the frozen main network
    sol_epochs: int = 300  # (authors)
    sol_lr: float = 4e-4  # of Adam, weight decay 5e-4 (authors)
    sol_milestones: tuple[int, int] = (100, 200)  # epochs after which the rate is divided by 4 (authors)


@dataclass(frozen=True)
class TrainJoint(MainNetwork, Heatmaps, Patches, EveryStage):  # stage backbone_heatmap: both at once
    joint_epochs: int = 600  # (authors)
    joint_heatmap_weight: float = 2.0  # of the heatmaps' squared error (authors)
    joint_lr: float = 0.1  # of SGD, the main network, scheduled as in stage backbone (authors)
    joint_warmup: int = 5  # epochs (authors)
    joint_milestones: tuple[int, int] = (200, 400)  # epochs after which it is divided by 10, the head's by 4 (authors)
    joint_head_lr: float = 4e-4  # of Adam, the heatmap head (authors)


@dataclass(frozen=True)
class TrainAutoencoder(Shapes, EveryStage):  # stage autoencoder: the shape prior
    ae_epochs: int = 300  # (ours)
    ae_lr: float = 2e-4  # of Adam (authors' rate for the critic)
    ae_weight_decay: float = 1e-4  # (authors' for the critic); in small boxes it outweighs the gradient: give 0
    ae_batch: int = 8  # masks in one update (ours)
    ae_jitter_zyx: tuple[int, int, int] = (2, 16, 16)  # voxels, largest shift of the box from the true centre (ours)


@dataclass(frozen=True)
class TrainAdversarial(Shapes, FrozenParts, Patches, EveryStage):  # stage adversarial: the branches
    localisation: Literal["SOL", "joint"] = "SOL"  # heatmaps after the main network (SOL), or both at once (joint)
    adv_epochs: int = 300  # (authors)
    adv_lr: float = 2e-4  # of the branches' Adam, weight decay 1e-4 (authors)
    adv_critic_lr: float = 2e-4  # of the critic's, weight decay 1e-4 (authors)
    adv_code_weight: float = 5.0  # of the distance between codes, whose size depends on the auto-encoder (authors)
    adv_top_share: float = 0.9  # share of patches from the highest slices, where the small organs are (authors)
    adv_top_offsets: int = 10  # how many positions count as highest (authors)
    shape_constraint: bool = True  # --no-shape-constraint: focal and Dice loss only
    textbook_focal: bool = False  # log-sigmoid(-z) in the branches' focal loss where the authors have (1 - z)
    sos_inputs: Literal["raw", "all"] = "raw"  # what a branch sees: the image (authors' code), or 66 channels (paper)
    heatmap_threshold: float = 0.6  # a box counts only where the heatmap's peak exceeds this (authors)
    small_threshold: float = 0.5  # voxels above this probability belong to a small organ (authors)


@dataclass(frozen=True)
class Train(TrainBackbone, TrainSOL, TrainJoint, TrainAutoencoder, TrainAdversarial):
    """What train.py reads: the settings of all stages."""


@dataclass(frozen=True)
class Config(Train, Crop, Prepare):
    """Every setting, as checkpoints keep them."""

    if TYPE_CHECKING:  # as above
        run_dir: Path = ROOT
        small: tuple[str, ...] = ()
        alpha: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.fill_in_organs()
        if self.run_dir is None:
            folder = ROOT / "runs" / "focusnet_v2"
            object.__setattr__(self, "run_dir", folder / f"fold{self.val_fold}" if self.val_fold else folder)
        if self.val_fold is not None:
            at_least(self, 1, "val_fold")
        at_least(self, 1, "patches_per_case", "batch_size", "validate_every", "ae_batch", "adv_top_offsets", "devices",
                 "window_step", "num_nodes", "code_length", "ae_width", "crop_side", "min_slices",
                 *(f"{prefix}_epochs" for prefix in STAGES.values()))
        at_least(self, 0, "workers", "worker_memory_gb", "seed", "crop_anterior", "crop_below", "crop_above",
                 "backbone_warmup", "joint_warmup", "dice_weight", "joint_heatmap_weight", "ae_weight_decay",
                 "adv_code_weight", "rotate_z", "rotate_xy", "alpha", "ae_jitter_zyx")
        for name in ("backbone_lr", "sol_lr", "joint_lr", "joint_head_lr", "ae_lr", "adv_lr", "adv_critic_lr",
                     "heatmap_sigma"):
            require(self, name, getattr(self, name) > 0, "must be positive")
        for name in ("zoom", "wide_zoom_xy", "heatmap_threshold", "small_threshold"):
            require(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        require(self, "adv_top_share", 0 <= self.adv_top_share <= 1, "must lie between 0 and 1")
        require(self, "spacing_xyz", all(0.05 <= mm <= 50 for mm in self.spacing_xyz), "must lie in 0.05 to 50 mm")
        require(self, "width", self.width >= 8 and self.width % 8 == 0, "must be divisible by 8")
        require(self, "box_zyx", all(n >= 8 and n % 8 == 0 for n in self.box_zyx), "must be divisible by 8")
        self.check_seen()
        require(self, "window_step", self.window_step <= self.patch_zyx[0], "must not exceed the patch's slices")
        require(self, "min_slices", self.min_slices >= self.patch_zyx[0], "must not be below the patch's slices")
        require(self, "alpha", len(self.alpha) == self.n_classes, f"must be {self.n_classes} numbers: background, "
                f"{', '.join(self.organs)}")


@dataclass(frozen=True)
class PrepareOptions(Prepare):
    label_table: Path | None = None  # JSON: organs with their labels, small ones, weights; unset: the layout's


STEPS = {"data_preprocess.py": PrepareOptions, "crop_data.py": Crop, "train.py": Train}


def default_weights(organs: Sequence[str], small: Collection[str]) -> tuple[float, ...]:
    return (BACKGROUND_WEIGHT, *(SMALL_WEIGHT if name in small else 1.0 for name in organs))
