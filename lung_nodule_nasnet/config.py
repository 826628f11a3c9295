"""Every setting of NASNet-GCN: edit the defaults here, or give `--name value` to the scripts that prepare and train."""
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared_data.settings import Cluster, at_least, require

ROOT = Path(__file__).resolve().parents[1]
METHOD = "NASNet-GCN"
Annotations = Literal["auto", "xml", "list", "luna16"]
MaskRule = Literal["edge", "authors"]
ThresholdRule = Literal["floor", "cut", "authors"]
Device = Literal["auto", "cpu", "gpu"]


@dataclass(frozen=True)
class Prepared:
    """What table.py reads."""

    prepared_dir: Path = ROOT / "data" / "prepared" / "lung_nodule_nasnet"  # lung slices, table and split


@dataclass(frozen=True)
class Slices:
    """What decides how the prepared slices look, beside the seed: kept with them, taken over by training, recorded with
    a network.

    The comment behind a field is its help text; in brackets where the value comes from.
    """

    annotations: Annotations = "auto"  # auto: luna16 if there are .mhd files, xml if there are read-outs, else list
    consensus: float = 0.5  # share of the readers of a nodule that makes a voxel nodule (xml)
    min_readers: int = 1  # nodules marked by fewer readers are left out, and their slices not used (xml)
    mask_rule: MaskRule = "edge"  # outlines of list and luna16: steepest closed edge (ours), or wand and HU > -500
    list_convention: Literal["list", "authors"] = "list"  # authors: columns counted from 0, mm taken for pixels
    negatives_per_positive: float = 1.0  # slices without a nodule kept for each with one (ours)
    min_negatives: int = 2  # but at least this many from each scan (ours)
    size: int = 400  # pixels along a side of the network's input: the central 400 of 512, resized (authors: 400)
    window: int | None = None  # pixels along a side of the windows a network trained on crops sees, resized to `size`


@dataclass(frozen=True)
class Prepare(Slices, Prepared, Cluster):
    """What preprocess.py reads."""

    data_dir: Path = ROOT / "data" / "raw" / "lung_nodule_nasnet"  # LIDC-IDRI or LUNA16, as unpacked
    nodule_list: Path | None = None  # list3.2.csv; unset: in data_dir
    luna_annotations: Path | None = None  # annotations.csv of LUNA16; unset: in data_dir
    seed: int = 85  # of the choice of slices without a nodule
    workers: int = 2  # processes that prepare


@dataclass(frozen=True)
class Split(Prepared):
    """What slice_idx.py reads."""

    split: Literal["patient", "slice"] = "patient"  # slice: neighbouring slices land on both sides (authors)
    validation_share: float = 0.2  # of the patients, or slices (authors)
    split_seed: int = 85  # of the split (authors)
    leave_out: Path | None = None  # CSV with a column seriesuid: scans kept out of training, for testing


@dataclass(frozen=True)
class Run(Prepared):
    """Where and for how long a network is trained, and what follows: all that may change when a run is resumed."""

    run_dir: Path | None = None  # config, results; unset: runs/lung_nodule_nasnet, a fold's fold<val_fold> in it
    epochs: int = 200  # passes over the training slices (authors)
    resume: bool = False  # go on from last.npz of the run folder

    # From probability to nodules
    threshold_rule: ThresholdRule = "floor"  # cut: one for all slices; authors: two-means even in empty ones
    centre_distance: float = 0.2  # floor: a slice whose two class centres are closer stays empty (ours)
    cut: float = 0.5  # cut: the probability above which a pixel is nodule (ours)
    erode: bool = False  # erode the mask of a slice by 5x5 (authors: optional)
    min_pixels: int = 4  # a slice with fewer mask pixels counts as empty (authors: more than 3)

    # Machine
    device: Device = "auto"  # auto: gpu where there is one
    devices: int = 1  # GPUs (or CPU parts) that share a batch
    workers: int = 2  # processes that load slices
    predict_batch: int = 4  # slices at a time outside training


@dataclass(frozen=True)
class Train(Run):
    """What train.py reads, beside how the slices were prepared."""

    # Training
    val_fold: int | None = None  # validate on this patient fold, from 1, instead of the split (ours)
    batch_size: int = 12  # slices in one update, over all devices (authors)
    lr: float = 1e-2  # first learning rate of SGD (ours: the authors' is not known)
    momentum: float = 0.9  # of SGD (authors)
    lr_factor: float = 0.1  # learning rate x this when validation Dice stalls (ours)
    lr_patience: int = 5  # epochs without a better Dice before that (ours)
    min_lr: float = 1e-7  # lower bound of the learning rate (authors' last one)
    finetune: Path | None = None  # start from this checkpoint, at 1e-7 (authors) unless --lr is given
    flip_probability: float = 0.5  # chance of a flip along each axis (authors)
    rotate_degrees: float = 6.0  # largest rotation, either direction (authors)
    zoom: float = 0.0  # largest relative change of size, either direction (authors: 0)

    # Network; the defaults are the paper's
    encoder_filters: int = 1056  # channels of the encoder's last map, a multiple of 96 (NASNet-Mobile: 1056)
    encoder_blocks: int = 4  # normal cells in each of three groups, at least 2 (NASNet-Mobile: 4)
    decoder_width: float = 1.0  # factor on the decoder's channels 192, 128, 96, 64
    bn_momentum: float | None = None  # of all batch normalisations; unset: 0.9997 encoder, 0.99 decoder (authors)
    seed: int = 85  # of weights, order and augmentation
    compiled: bool = True  # TensorFlow compiles the training step (half a minute, once); off: for trials of few steps


@dataclass(frozen=True)
class Config(Train, Split, Prepare):
    """Every setting, as checkpoints keep them."""

    if TYPE_CHECKING:  # never None once it is filled in
        run_dir: Path = ROOT

    def __post_init__(self) -> None:
        if self.run_dir is None:
            folder = ROOT / "runs" / "lung_nodule_nasnet"
            object.__setattr__(self, "run_dir", folder / f"fold{self.val_fold}" if self.val_fold else folder)
        if self.val_fold is not None:
            at_least(self, 1, "val_fold")
        at_least(self, 1, "epochs", "batch_size", "lr_patience", "devices", "predict_batch", "min_pixels",
                 "min_readers")
        at_least(self, 2, "encoder_blocks")
        at_least(self, 0, "workers", "worker_memory_gb", "seed", "split_seed", "min_negatives",
                 "negatives_per_positive", "min_lr", "rotate_degrees", "centre_distance")
        for name in ("flip_probability", "momentum", "cut"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must lie in 0..1")
        for name in ("validation_share", "lr_factor", "bn_momentum"):
            value = getattr(self, name)
            if value is not None:
                require(self, name, 0 < value < 1, "must lie between 0 and 1")
        require(self, "consensus", 0 < self.consensus <= 1, "must lie above 0, up to 1")
        require(self, "batch_size", self.batch_size % self.devices == 0, "must be divisible by --devices")
        require(self, "zoom", 0 <= self.zoom < 0.5, "must lie from 0, below 0.5")
        require(self, "lr", self.lr > 0, "must be positive")
        require(self, "decoder_width", 0 < self.decoder_width <= 8, "must lie above 0, up to 8")
        require(self, "size", 32 <= self.size <= 400, "must lie in 32..400")
        require(self, "window", self.window is None or 16 <= self.window <= 128, "must lie in 16..128")
        require(self, "seed", self.seed < 2**32 - self.epochs, "must be below 4294967296 less --epochs")
        require(self, "encoder_filters", self.encoder_filters >= 96 and self.encoder_filters % 96 == 0,
                "must be a multiple of 96")


STEPS = {"preprocess.py": Prepare, "table.py": Prepared, "slice_idx.py": Split, "train.py": Train}
