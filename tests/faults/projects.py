"""What the fault suite needs to know of each project: commands that work, in seconds, and what they read and write."""
from dataclasses import dataclass
from typing import Callable


@dataclass(frozen=True)
class Project:
    """Each command is (module, options). Folders: raw cohort, prepared cases, run."""

    config: str  # module with its Config
    write_cohort: Callable  # (raw): a phantom cohort with enough patients
    ct_of: Callable  # (raw) -> the CT file of one patient that may be spoiled
    mask_of: Callable  # (raw) -> its mask
    prepare: Callable  # (raw, prepared) -> commands
    train: Callable  # (prepared, run) -> commands; the same with --resume goes on
    checkpoint: str  # below the run folder
    predict: Callable  # (ct, checkpoint, output) -> command
    test: Callable  # (prepared, run, output) -> command
    history: str = "history.csv"  # below the run folder: equal after a kill
    last: str = "last.pt"  # below the run folder: where something fits it, a run goes on with --resume


def _snet():
    from shared_data.phantoms import write_neck_cohort

    small = ["--size", "32", "--batch-size", "4", "--epochs", "2", "--workers", "0", "--device", "cpu",
             "--precision", "32-true"]
    process = "snet_neck_ln.process_data"
    return Project(
        config="snet_neck_ln.config", write_cohort=lambda raw: write_neck_cohort(raw, 4, size=32, slices=6),
        ct_of=lambda raw: raw / "P2" / "IM0001.nrrd", mask_of=lambda raw: raw / "P2" / "Segmentation.nrrd",
        prepare=lambda raw, prepared: [
            (f"{process}.data_process_lymph_node", ["--data-dir", raw, "--prepared-dir", prepared, "--workers", "0"]),
            (f"{process}.data_parser", ["--prepared-dir", prepared])],
        train=lambda prepared, run: [("snet_neck_ln.train", ["--prepared-dir", prepared, "--run-dir", run, *small])],
        checkpoint="best.pt",
        predict=lambda ct, checkpoint, output: ("snet_neck_ln.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("snet_neck_ln.test", ["--run-dir", run, "--output-dir", output,
                                                                  "--device", "cpu"]))


def _sepnet():
    from shared_data.phantoms import write_structseg_cohort

    small = ["--crop-size", "32", "--workers", "0"]
    return Project(
        config="sepnet.config", write_cohort=lambda raw: write_structseg_cohort(raw, 4, size=32, slices=16),
        ct_of=lambda raw: raw / "2" / "data.nii.gz", mask_of=lambda raw: raw / "2" / "label.nii.gz",
        prepare=lambda raw, prepared: [
            ("sepnet.preprocess", ["--data-dir", raw, "--prepared-dir", prepared, *small])],
        train=lambda prepared, run: [("sepnet.train", [
            "--prepared-dir", prepared, "--run-dir", run, *small, "--patch-zyx", "16", "16", "16", "--batch-size", "2",
            "--base-channels", "2", "--epochs", "2", "--steps-per-epoch", "3", "--device", "cpu"])],
        checkpoint="best.pt",
        predict=lambda ct, checkpoint, output: ("sepnet.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("sepnet.test", ["--run-dir", run, "--output-dir", output,
                                                            "--device", "cpu"]))


def _retroln():
    from shared_data.phantoms_abdomen import write_abdomen_cohort

    small = ["--patch-zyx", "32", "32", "32", "--spacing-zyx", "8", "6.5", "6.5", "--base-features", "2", "--epochs",
             "2", "--iterations", "2", "--val-iterations", "1", "--num-processes", "0", "--device", "cpu"]
    fold = "nnUNet_results/Dataset600_RetroLN/nnUNetTrainerRetroLN__RetroLNPlans__3d_fullres/fold_0"

    def vertebrae(ct):
        raw = ct.parents[1]
        return (raw if raw.name == "raw" else raw / "raw") / "vertebrae" / "P2"

    return Project(
        config="retroln_nnunet.config", write_cohort=lambda raw: write_abdomen_cohort(raw, 4, size=40, slices=30),
        ct_of=lambda raw: raw / "CT" / "P2_0000.nii.gz", mask_of=lambda raw: raw / "masks" / "P2.nii.gz",
        prepare=lambda raw, prepared: [("retroln_nnunet.crop", ["--data-dir", raw, "--output-dir", prepared])],
        train=lambda prepared, run: [
            ("retroln_nnunet.train", ["--processed-dir", prepared, "--nnunet-dir", run, *small])],
        checkpoint=f"{fold}/checkpoint_final.pth", last=f"{fold}/checkpoint_*.pth", history=f"{fold}/history.csv",
        predict=lambda ct, checkpoint, output: ("retroln_nnunet.predict", [
            "--input", ct, "--vertebrae", vertebrae(ct), "--checkpoint", checkpoint, "--output", output, "--device",
            "cpu", "--no-mirror"]),
        test=lambda prepared, run, output: ("retroln_nnunet.test", [
            "--processed-dir", prepared, "--nnunet-dir", run, "--output-dir", output, "--device", "cpu",
            "--no-mirror"]))


def _focusnet():
    from shared_data.phantoms_head import write_pddca_cohort

    grid = ("--spacing-xyz 4 4 5 --crop-side 40 --crop-anterior 12 --crop-below 14 --crop-above 7 --patch-zyx 8 32 32 "
            "--min-slices 12 --box-zyx 8 16 16 --window-step 6 --workers 0").split()
    tiny = ("--width 8 --ae-width 8 --code-length 16 --backbone-epochs 1 --sol-epochs 1 --ae-epochs 1 --adv-epochs 1 "
            "--device cpu").split()
    return Project(
        config="focusnet_v2.config", write_cohort=lambda raw: write_pddca_cohort(raw, 5, size=48, slices=20),
        ct_of=lambda raw: raw / "P2" / "img.nrrd", mask_of=lambda raw: raw / "P2" / "structures" / "Mandible.nrrd",
        prepare=lambda raw, prepared: [
            (f"focusnet_v2.data_preprocess.{step}", ["--data-dir", raw, "--prepared-dir", prepared, *grid])
            for step in ("data_preprocess", "crop_data")],
        train=lambda prepared, run: [
            ("focusnet_v2.train", ["--prepared-dir", prepared, "--run-dir", run, *grid, *tiny])],
        checkpoint="adversarial/best.pt", last="never", history="adversarial/history.csv",
        predict=lambda ct, checkpoint, output: ("focusnet_v2.predict", [
            "--input", ct, "--checkpoint", checkpoint, "--output", output, "--device", "cpu"]),
        test=lambda prepared, run, output: ("focusnet_v2.test", ["--run-dir", run, "--output-dir", output,
                                                                 "--device", "cpu"]))


PROJECTS = {"snet": _snet, "sepnet": _sepnet, "retroln": _retroln, "focusnet": _focusnet}
