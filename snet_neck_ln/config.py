"""Every setting of S-Net: edit the defaults here, or pass `--name value` to the scripts that prepare and train."""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared_data.settings import Cluster, Device, Precision, at_least, require

ROOT = Path(__file__).resolve().parents[1]
METHOD = "S-Net"


@dataclass(frozen=True)
class Slices:
    """What shapes the prepared slices: kept with them, taken over by training, recorded with a network.

    The comment behind a field is its help text; brackets name the source of the value.
    """

    window_center_hu: float = 40.0  # HU (paper)
    window_width_hu: float = 400.0  # HU (paper)
    merge_labels: bool = False  # every label above 0 is node (masks that number their nodes)


@dataclass(frozen=True)
class Prepared:
    """Settings of data_parser.py."""

    prepared_dir: Path = ROOT / "data" / "prepared" / "snet_neck_ln"  # slices and folds


@dataclass(frozen=True)
class Prepare(Slices, Prepared, Cluster):
    """Settings of data_process_lymph_node.py."""

    data_dir: Path = ROOT / "data" / "raw" / "snet_neck_ln"  # cohort: one folder per patient
    image_pattern: str = "*IM00*"  # file name of the CT in a patient's folder (authors)
    mask_pattern: str = "*Segmentation*"  # file name of the mask (authors)
    rois: Path | None = None  # JSON {"node": names or patterns of ROIs} for RTSTRUCTs; unset: common names of nodes
    workers: int = 2  # processes that prepare patients


@dataclass(frozen=True)
class Run(Prepared):
    """Where and for how long a network is trained: settings that may change with --resume."""

    run_dir: Path | None = None  # settings, checkpoints and results; unset: runs/snet_neck_ln/fold<val_fold>
    epochs: int = 150  # passes over the training slices (authors)
    stop_patience: int = 30  # epochs without a better Dice before training stops (authors)
    checkpoint_every: int = 5  # epochs between checkpoints that are kept (authors)
    resume: bool = False  # continue from last.pt in the run folder
    threshold: float = 0.7  # probability above which a voxel is node in test.py and predict.py (authors)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    devices: int = 1  # GPUs (or CPU processes) per machine
    num_nodes: int = 1  # machines
    compile: bool = False  # torch.compile: minutes of compiling, then faster steps on some devices
    workers: int = 2  # processes that load slices


@dataclass(frozen=True)
class Train(Run):
    """Settings of train.py, beside those that preparation kept."""

    precision: Precision = "auto"  # auto: bf16-mixed if the device supports it, else 32-true

    # Slices
    context_slices: int = 0  # n: slices k-n to k+n become channels (paper: 0)
    size: int = 384  # side of the centre crop, pixels, divisible by 4 (paper)

    # Training
    val_fold: int = 1  # fold to validate on, from 1 (authors)
    batch_size: int = 16  # slices per update, over all devices (authors)
    lr: float = 5e-5  # learning rate of AdamW (authors)
    lr_factor: float = 0.5  # factor on the learning rate when validation Dice stalls (authors)
    lr_patience: int = 5  # epochs without a better Dice before that happens (authors)
    min_lr: float = 1e-7  # lower bound of the learning rate (authors)
    negatives_per_positive: float = 1.0  # slices without a node per slice with one, drawn anew every epoch (authors)
    rotate_probability: float = 0.5  # chance of a small rotation (authors)
    rotate_degrees: tuple[float, float] = (5.0, 10.0)  # smallest and largest angle, in either direction (authors)
    flip_probability: float = 0.5  # chance of a vertical flip (authors)
    rot90_probability: float = 0.5  # chance of a rotation by 90, 180 or 270 degrees (authors)
    seed: int = 2022  # of weights, sampling and augmentation (authors)

    # Network
    axial_layout: Literal["original", "paper"] = "original"  # attention as in the authors' code, or height then width

    # Evaluation
    train_threshold: float = 0.5  # probability above which a voxel is node during training (authors)


@dataclass(frozen=True)
class Config(Train, Prepare):
    """All settings, as checkpoints keep them."""

    if TYPE_CHECKING:  # never None after __post_init__
        run_dir: Path = ROOT

    def __post_init__(self) -> None:
        if self.run_dir is None:
            object.__setattr__(self, "run_dir", ROOT / "runs" / "snet_neck_ln" / f"fold{self.val_fold}")
        at_least(self, 1, "val_fold", "epochs", "batch_size", "lr_patience", "stop_patience", "checkpoint_every",
                 "devices", "num_nodes")
        at_least(self, 0, "context_slices", "workers", "worker_memory_gb", "negatives_per_positive", "seed", "min_lr")
        for name in ("rotate_probability", "flip_probability", "rot90_probability"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must lie in 0..1")
        for name in ("train_threshold", "threshold", "lr_factor"):
            require(self, name, 0 < getattr(self, name) < 1, "must lie between 0 and 1")
        for name in ("lr", "window_width_hu"):
            require(self, name, getattr(self, name) > 0, "must be positive")
        require(self, "size", 32 <= self.size <= 4096 and self.size % 4 == 0,
                "must be divisible by 4 and lie in 32..4096")
        if self.context_slices > 20 or self.seed >= 2**32 - self.epochs:
            raise ValueError("--context-slices can be 20 at most, --seed 4294967295 less --epochs.")
        require(self, "rotate_degrees", 0 <= self.rotate_degrees[0] <= self.rotate_degrees[1] <= 180,
                "must be low, then high, within 0..180")


STEPS = {"data_process_lymph_node.py": Prepare, "data_parser.py": Prepared, "train.py": Train}
