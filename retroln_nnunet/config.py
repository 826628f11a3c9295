"""Every setting of RetroLN: edit the defaults here, or give `--name value` to the scripts that prepare and train."""
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_data.settings import Cluster, at_least, require

ROOT = Path(__file__).resolve().parents[1]
METHOD = "RetroLN-nnUNet"
VERTEBRAE = ("T12", "L1", "L2", "L3", "L4", "L5")
Six = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class RunConfig:
    """Which run of nnU-Net. The comment behind a field is its help text; in brackets where the value comes from."""

    nnunet_dir: Path = ROOT / "runs" / "retroln_nnunet"  # nnUNet_raw, nnUNet_preprocessed, nnUNet_results
    plans: Literal["published", "auto", "resenc_m", "resenc_l", "resenc_xl"] = "published"  # resenc: residual encoders
    configuration: str = "3d_fullres"  # nnU-Net configuration (authors)
    fold: int = 0  # fold to validate on, from 0 (nnU-Net)
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda, else mps, else cpu

    def __post_init__(self) -> None:
        at_least(self, 0, "fold")


@dataclass(frozen=True)
class Region:
    """How the region is found and cut: kept with the crops, taken over by training, recorded with a network."""

    vertebra_labels: Six = (32, 31, 30, 29, 28, 27)  # T12, L1-L5 in a multi-label file (TotalSegmentator)
    ap_mm: float = 180.0  # length of the region, posterior to anterior, mm (authors)
    ap_offset_mm: float = 30.0  # how far behind the anterior margin of L2 it starts, mm (authors)
    lr_mm: float = 150.0  # its width, mm (authors)
    si_extent: Literal["all", "L2"] = "all"  # height: all vertebrae (authors' README), or L2 (their code)
    landmark: Literal["correct", "original"] = "correct"  # original: first vertebra for a missing L2, axis slip
    normalize: bool = True  # clip and scale to [0, 1]; otherwise HU as they are (authors)
    min_hu: float = -1000.0  # HU that becomes 0 (authors)
    max_hu: float = 400.0  # HU that becomes 1 (authors)


@dataclass(frozen=True)
class RegionConfig(RunConfig, Region):
    """A run and its region, as predict.py reads them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ap_mm", "lr_mm"):
            require(self, name, getattr(self, name) > 0, "must be positive")
        at_least(self, 0, "ap_offset_mm")
        at_least(self, 1, "vertebra_labels")
        require(self, "min_hu", self.min_hu < self.max_hu, f"must be below --max-hu {self.max_hu}")
        require(self, "vertebra_labels", len(set(self.vertebra_labels)) == len(VERTEBRAE),
                "must be six different labels")


@dataclass(frozen=True)
class Cohort:
    """Where the cases are that are cropped, and what a node is."""

    data_dir: Path = ROOT / "data" / "raw" / "retroln_nnunet"  # cohort: CT/, masks/, vertebrae/
    prepared_dir: Path = ROOT / "data" / "prepared" / "retroln_nnunet"  # crops of crop.py
    rois: Path | None = None  # JSON {"node": ROI names or patterns} of RTSTRUCTs; unset: common names of nodes
    merge_labels: bool = False  # take every label above 0 as node (masks that number their nodes)
    num_processes: int = 2  # processes that crop, with --parallel


@dataclass(frozen=True)
class Crop(Cohort, Region, Cluster):
    """What crop.py reads."""

    ct_dir: Path | None = None  # CTs: files, or folders with one DICOM series; unset: <data_dir>/CT
    mask_dir: Path | None = None  # masks; unset: <data_dir>/masks where ct_dir is unset too, else none
    vert_seg_dir: Path | None = None  # for each case a folder of vertebrae, or a file; unset: <data_dir>/vertebrae
    output_dir: Path | None = None  # unset: prepared_dir
    parallel: bool = False  # several cases at a time
    single: bool = False  # one case, given by the options that follow
    ct_file: Path | None = None  # its CT
    mask_file: Path | None = None  # its mask
    vert_seg_file: Path | None = None  # its vertebrae: a folder, or one file
    ct_output: Path | None = None  # where the cropped CT is written
    mask_output: Path | None = None  # where the cropped mask is written


@dataclass(frozen=True)
class Training:
    """How nnU-Net is trained."""

    prepared_dir: Path = Cohort.prepared_dir  # crops of crop.py

    # Split
    test_share: float = 0.1  # share of the patients held out for test.py (ours)
    patient_pattern: str = r".+"  # regular expression: the part of the case id that names the patient

    # nnU-Net
    resume: bool = False  # go on from the latest checkpoint of the fold
    patch_zyx: tuple[int, int, int] = (64, 192, 160)  # voxels (authors; published plan only)
    spacing_zyx: tuple[float, float, float] = (2.5, 0.7890620231628418, 0.7890620231628418)  # mm (authors)
    batch_size: int = 2  # patches (authors; likewise)
    base_features: int = 32  # of the first stage; doubled up to ten times as many (authors; likewise)
    epochs: int = 1000  # of `steps_per_epoch` updates (authors)
    steps_per_epoch: int = 250  # updates in an epoch (authors)
    val_steps: int = 50  # validation batches in an epoch (nnU-Net)
    lr: float = 0.01  # learning rate of SGD (authors)
    momentum: float = 0.99  # of SGD, Nesterov's (authors)
    oversample_foreground: float = 0.5  # share of patches centred on a node (authors; nnU-Net: 0.33)
    save_every: int = 1  # epochs between writing checkpoint_latest.pth (ours; nnU-Net: 50)
    seed: int = 0  # of weights, sampling and augmentation (ours; runs repeat exactly only with num_processes 0)

    # Augmentation beside nnU-Net's own
    elastic_probability: float = 0.2  # chance of an elastic deformation (ours; promised by the authors' README)
    elastic_scale: tuple[float, float] = (0.05, 0.2)  # smoothness of the field, as a share of the patch (ours)
    elastic_mm: tuple[float, float] = (2.0, 8.0)  # largest displacement, mm (ours)
    landmark_probability: float = 0.3  # chance of a misplaced region (ours; promised likewise)
    landmark_shift_mm: tuple[float, float, float] = (4.0, 5.0, 4.0)  # std deviation of L2's position in z, y, x (ours)
    level_error_mm: float = 10.0  # standard deviation of the distance T12 to L5 (ours)
    levels_mm: float = 200.0  # that distance (ours)

    # Machine
    devices: int = 1  # GPUs to train on
    num_processes: int = 2  # processes that prepare, and that augment in training


@dataclass(frozen=True)
class Train(Training, RunConfig):
    """What train.py reads, beside how the cases were cropped."""

    prepare_only: bool = False  # stop before training: data set, plan and preprocessed cases
    prepare: bool = True  # --no-prepare: these exist already; folds that start side by side would collide
    c: bool = False  # --resume, spelled as in nnU-Net


STEPS = {"crop.py": Crop, "train.py": Train}


@dataclass(frozen=True)
class Config(Training, Cohort, RegionConfig):
    """Every setting."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lr", "levels_mm"):
            require(self, name, getattr(self, name) > 0, "must be positive")
        require(self, "spacing_zyx", min(self.spacing_zyx) > 0, "must be positive")
        for name in ("oversample_foreground", "elastic_probability", "landmark_probability"):
            require(self, name, 0 <= getattr(self, name) <= 1, "must lie in 0..1")
        for name in ("momentum", "test_share"):
            require(self, name, 0 <= getattr(self, name) < 1, "must lie in 0..1, below 1")
        at_least(self, 1, "batch_size", "base_features", "epochs", "steps_per_epoch", "val_steps", "save_every",
                 "devices")
        at_least(self, 0, "num_processes", "level_error_mm", "landmark_shift_mm", "seed")
        for name in ("elastic_scale", "elastic_mm"):
            low, high = getattr(self, name)
            require(self, name, 0 <= low <= high, "must be low, then high, from 0")
        require(self, "seed", self.seed < 2**32, "must be below 4294967296")
        z, y, x = self.patch_zyx
        if min(z, y, x) < 16 or max(z, y, x) > 1024 or z % 16 or y % 32 or x % 32 or (z, y, x) == (16, 32, 32):
            raise ValueError(f"--patch-zyx {self.patch_zyx}: z must be divisible by 16, y and x by 32, 1024 at most; "
                             "16 32 32 is too small.")
        try:
            re.compile(self.patient_pattern)
        except re.error as error:
            raise ValueError(f"--patient-pattern {self.patient_pattern!r}: no regular expression ({error}).") from error
