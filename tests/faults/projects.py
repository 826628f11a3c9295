"""What the fault suite needs to know of each project: commands that work, in seconds, and what they read and write."""
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.bad_files import SERIES_FAULTS, cut_short

Commands = Callable[..., Any]  # of folders: what to run


@dataclass(frozen=True)
class Project:
    """Each command is (module, options). Folders: raw cohort, prepared cases, run."""

    config: str  # module with its Config
    write_cohort: Callable[[Path], object]  # (raw): a phantom cohort with enough patients
    ct_of: Callable[[Path], Path]  # (raw) -> the CT file of one patient that may be spoiled
    # (raw, bad CTs) -> {what: (function of a copy of raw that does it, exit code of prepare then)}
    spoil: Callable[[Path, Path], dict[str, Any]]
    prepare: Commands  # (raw, prepared) -> commands
    train: Commands  # (prepared, run) -> commands; the same with --resume goes on
    checkpoint: str  # below the run folder
    predict: Commands  # (ct, checkpoint, output) -> command
    test: Commands  # (prepared, run, output) -> command
    # Patterns below the prepared folder: training reads the first file of each, and says so if bad.
    trained_on: tuple[str, ...]
    history: str = "history.csv"  # below the run folder: equal after a kill
    last: str = "last.pt"  # below the run folder: where something fits it, a run goes on with --resume
    stand_in: bool = False  # a small network stands in for the method's, in this process and its forks alone


def replaced(*places):
    """`spoil`, where one file of a patient gives way to a bad CT. Each place: (raw) -> file."""
    def replace(raw, place, path):
        good = place(raw)
        good.unlink()
        shutil.copy(path, good.with_name(good.name.partition(".")[0] + "".join(path.suffixes)))

    def faults(raw, bad):
        return {f"{place(raw).name}: {what}": (partial(replace, place=place, path=path), 1)
                for what, path in bad.items() if path.is_file() and what != "an unknown suffix" for place in places}
    return faults


def _snet():
    from shared_data.phantoms import write_neck_cohort

    small = ["--size", "32", "--batch-size", "4", "--epochs", "2", "--workers", "0", "--device", "cpu",
             "--precision", "32-true"]
    process = "snet_neck_ln.process_data"
    return Project(
        config="snet_neck_ln.config", write_cohort=lambda raw: write_neck_cohort(raw, 4, size=32, slices=6),
        ct_of=lambda raw: raw / "P2" / "IM0001.nrrd",
        spoil=replaced(lambda raw: raw / "P2" / "IM0001.nrrd", lambda raw: raw / "P2" / "Segmentation.nrrd"),
        prepare=lambda raw, prepared: [
            (f"{process}.data_process_lymph_node", ["--data-dir", raw, "--prepared-dir", prepared, "--workers", "0"]),
            (f"{process}.data_parser", ["--prepared-dir", prepared])],
        train=lambda prepared, run: [("snet_neck_ln.train", ["--prepared-dir", prepared, "--run-dir", run, *small])],
        checkpoint="best.pt", trained_on=("files/*.npz", "train_with_node.txt"),
        predict=lambda ct, checkpoint, output: ("snet_neck_ln.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("snet_neck_ln.test", ["--run-dir", run, "--output-dir", output,
                                                                  "--device", "cpu"]))


def _sepnet():
    from shared_data.phantoms import write_structseg_cohort

    return Project(
        config="sepnet.config", write_cohort=lambda raw: write_structseg_cohort(raw, 4, size=32, slices=16),
        ct_of=lambda raw: raw / "2" / "data.nii.gz",
        spoil=replaced(lambda raw: raw / "2" / "data.nii.gz", lambda raw: raw / "2" / "label.nii.gz"),
        prepare=lambda raw, prepared: [
            ("sepnet.preprocess", ["--data-dir", raw, "--prepared-dir", prepared, "--crop-size", "32", "--workers",
                                   "0"])],
        train=lambda prepared, run: [("sepnet.train", [
            "--prepared-dir", prepared, "--run-dir", run, "--workers", "0", "--patch-zyx", "16", "16", "16",
            "--batch-size", "2", "--base-channels", "2", "--epochs", "2", "--steps-per-epoch", "3", "--device",
            "cpu"])],
        checkpoint="best.pt", trained_on=("multi_thresh_1.nii.gz", "label.nii.gz", "cases.csv"),
        predict=lambda ct, checkpoint, output: ("sepnet.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("sepnet.test", ["--run-dir", run, "--output-dir", output,
                                                            "--device", "cpu"]))


def draw_few_voxels():
    """nnU-Net draws 100 million voxels for the statistics of a cohort: on phantoms that takes longer than training."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    construct = DatasetFingerprintExtractor.__init__

    def with_few(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 1e4

    DatasetFingerprintExtractor.__init__ = with_few


def _retroln():
    from shared_data.phantoms_abdomen import write_abdomen_cohort

    draw_few_voxels()

    small = ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "8", "6.5", "6.5", "--base-features", "2", "--epochs",
             "2", "--steps-per-epoch", "2", "--val-steps", "1", "--num-processes", "0", "--device", "cpu"]
    fold = "nnUNet_results/Dataset600_RetroLN/nnUNetTrainerRetroLN__RetroLNPlans__3d_fullres/fold_0"

    def vertebrae(ct):
        raw = ct.parents[1]
        return (raw if raw.name == "raw" else raw / "raw") / "vertebrae" / "P2"

    return Project(
        config="retroln_nnunet.config", write_cohort=lambda raw: write_abdomen_cohort(raw, 4, size=40, slices=30),
        ct_of=lambda raw: raw / "CT" / "P2_0000.nii.gz",
        spoil=replaced(lambda raw: raw / "CT" / "P2_0000.nii.gz", lambda raw: raw / "masks" / "P2.nii.gz"),
        prepare=lambda raw, prepared: [("retroln_nnunet.crop", ["--data-dir", raw, "--output-dir", prepared])],
        train=lambda prepared, run: [
            ("retroln_nnunet.train", ["--prepared-dir", prepared, "--nnunet-dir", run, *small])],
        trained_on=("images/*", "labels/*"),
        checkpoint=f"{fold}/checkpoint_final.pth", last=f"{fold}/checkpoint_*.pth", history=f"{fold}/history.csv",
        predict=lambda ct, checkpoint, output: ("retroln_nnunet.predict", [
            "--input", ct, "--vertebrae", vertebrae(ct) if output.suffix else vertebrae(ct / "P2").parent,
            "--checkpoint", checkpoint, "--output", output, "--device", "cpu", "--no-mirror"]),
        test=lambda prepared, run, output: ("retroln_nnunet.test", [
            "--prepared-dir", prepared, "--nnunet-dir", run, "--output-dir", output, "--device", "cpu",
            "--no-mirror"]))


def _focusnet():
    from shared_data.phantoms_head import write_pddca_cohort

    spacing = "--spacing-xyz 4 4 5 --workers 0".split()
    crop = ("--crop-side 40 --crop-anterior 12 --crop-below 14 --crop-above 7 --patch-zyx 8 32 32 --workers 0").split()
    tiny = ("--patch-zyx 8 32 32 --min-slices 12 --box-zyx 8 16 16 --window-step 6 --width 8 "
            "--ae-width 8 --code-length 16 --backbone-epochs 1 "
            "--sol-epochs 1 --ae-epochs 1 --adv-epochs 1 --device cpu").split()
    return Project(
        config="focusnet_v2.config", write_cohort=lambda raw: write_pddca_cohort(raw, 5, size=48, slices=20),
        ct_of=lambda raw: raw / "P2" / "img.nrrd",
        spoil=replaced(lambda raw: raw / "P2" / "img.nrrd", lambda raw: raw / "P2" / "structures" / "Mandible.nrrd"),
        prepare=lambda raw, prepared: [
            ("focusnet_v2.data_preprocess.data_preprocess", ["--data-dir", raw, "--prepared-dir", prepared, *spacing]),
            ("focusnet_v2.data_preprocess.crop_data", ["--prepared-dir", prepared, *crop])],
        train=lambda prepared, run: [
            ("focusnet_v2.train", ["--prepared-dir", prepared, "--run-dir", run, *tiny])],
        trained_on=("cropped/*/image.nrrd", "cropped/*/label.nrrd", "cases.csv"),
        checkpoint="adversarial/best.pt", last="never", history="adversarial/history.csv",
        predict=lambda ct, checkpoint, output: ("focusnet_v2.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("focusnet_v2.test", ["--run-dir", run, "--output-dir", output,
                                                                 "--device", "cpu"]))


def _lung():
    from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow is loaded before the forks, once
    from lung_nodule_nasnet import inference, nasnet_v2, score_slices, training  # noqa: F401
    from shared_data.phantoms_chest import write_lidc_cohort

    def two_layers(config):
        """In place of NASNet-GCN: files are at stake here, and NASNet takes half a minute to train a step."""
        layers, model = nasnet_v2.layers, nasnet_v2.keras.Model
        image = layers.Input((config.size, config.size, 1))
        hidden = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
        return model(image, layers.Conv2D(2, 1, activation="softmax")(hidden))

    nasnet_v2.build_network = training.build_network = two_layers
    project = "lung_nodule_nasnet"
    return Project(
        config=f"{project}.config", write_cohort=lambda raw: write_lidc_cohort(raw, 4, size=64, slices=10),
        ct_of=_lidc_series, spoil=lambda raw, bad: _lidc_faults() | _luna_faults(bad),
        prepare=lambda raw, prepared: [
            (f"{project}.preprocess", ["--data-dir", raw, "--prepared-dir", prepared, "--size", "64", "--workers",
                                       "0"]),
            *((f"{project}.{step}", ["--prepared-dir", prepared]) for step in ("table", "slice_idx"))],
        train=lambda prepared, run: [(f"{project}.train", [
            "--prepared-dir", prepared, "--run-dir", run, "--workers", "0", "--batch-size", "4", "--epochs", "2",
            "--device", "cpu"])],
        checkpoint="best.npz", last="last.npz", trained_on=("table.h5", "slice_idx.json"), stand_in=True,
        predict=lambda ct, checkpoint, output: (f"{project}.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: (f"{project}.test", ["--run-dir", run, "--output-dir", output]))


def _lidc_series(raw):
    return raw / "LIDC-IDRI-0002" / "study" / "series"


def _lidc_faults():
    """A patient's DICOM series or XML read-out is bad; one that is no CT is no scan, and passed over."""
    faults = {what: (lambda raw, spoil=spoil: spoil(sorted(_lidc_series(raw).glob("*.dcm"))),
                     0 if what == "another modality" else 1) for what, spoil in SERIES_FAULTS.items()}

    def in_read_out(old, new):
        def change(raw):
            xml = _lidc_series(raw) / "readings.xml"
            xml.write_text(xml.read_text().replace(old, new))
        return change, 1

    def of_another(raw):
        shutil.copy(raw / "LIDC-IDRI-0001" / "study" / "series" / "readings.xml", _lidc_series(raw))

    return faults | {
        "no XML": (lambda raw: (_lidc_series(raw) / "readings.xml").unlink(), 1),
        "XML of another patient": (of_another, 1),
        "XML cut short": (lambda raw: cut_short(_lidc_series(raw) / "readings.xml"), 1),
        "XML, outlines outside the slices": in_read_out("<xCoord>", "<xCoord>9"),
        "XML, outlines that are no numbers": in_read_out("<yCoord>", "<yCoord>many"),
        "XML of a radiograph": in_read_out("LidcReadMessage", "IdriReadMessage")}


def _luna_faults(bad):
    """The cohort becomes LUNA16's, one of its volumes bad."""
    from shared_data.phantoms_chest import write_luna_cohort

    def spoil(raw, path):
        shutil.rmtree(raw)
        write_luna_cohort(raw, 2, size=64, slices=10)
        good = min(raw.rglob("*.mhd"))
        for part in (good, good.with_suffix(".raw")):
            part.unlink()
        for part in path.parent.glob(f"{path.stem}.*raw"):
            shutil.copy(part, good.parent)
        shutil.copy(path, good)
    return {f"LUNA16, {what}": (partial(spoil, path=path), 1) for what, path in bad.items() if path.suffix == ".mhd"}


PROJECTS = {"snet": _snet, "lung": _lung, "sepnet": _sepnet, "retroln": _retroln, "focusnet": _focusnet}
