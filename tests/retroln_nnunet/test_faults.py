"""A full disk and a folder without rights: one line, exit code 2, nothing half written; scans nobody can use."""
import numpy as np
import pytest
import SimpleITK as sitk

from retroln_nnunet import predict
from shared_data.errors import InputError
from tests.faults.attempt import attempt


def one_line(outcome, *words):
    assert outcome.code == 2 and len(outcome.lines) == 1 and all(word in outcome.lines[0] for word in words), outcome


def left(folder):
    """Volumes, checkpoints and half-written files below a folder."""
    return [path for path in folder.rglob("*") if path.name.startswith(".writing-")
            or path.name.endswith((".nii", ".nii.gz", ".pth", ".partial", ".png"))]


def test_a_full_disk(raw, processed, checkpoint, stand_in, tmp_path):
    one_line(attempt("retroln_nnunet.crop", ["--data-dir", raw, "--output-dir", tmp_path / "crops"], limit=5000),
             "no case could be used. P1: ", "Free some space")
    assert not list((tmp_path / "crops").glob("images/*")) and not list(tmp_path.rglob(".writing-*"))
    one_line(attempt("retroln_nnunet.train", ["--prepared-dir", processed, "--nnunet-dir", tmp_path / "n"],
                     limit=20_000), "Free some space")
    predicting = ["--checkpoint", checkpoint, "--vertebrae", raw / "vertebrae" / "P4", "--device", "cpu", "--no-mirror",
                  "--no-viewer", "--input", raw / "CT" / "P4_0000.nii.gz", "--output", tmp_path / "out" / "m.nii"]
    one_line(attempt("retroln_nnunet.predict", predicting, limit=2000), "m.nii", "Free some space")
    assert not left(tmp_path / "out") and not left(tmp_path / "n")
    stand_in()
    full = attempt("retroln_nnunet.vert_seg", ["--input-dir", raw / "CT", "--output-dir", tmp_path / "v"], limit=200)
    assert full.code == 2 and "Free some space" in full.lines[-1]
    assert not list((tmp_path / "v").glob("*P*"))


def test_a_folder_without_rights(readonly_folder, raw, processed, stand_in):
    stand_in()
    for module, *options in (
            ("crop", "--data-dir", raw, "--output-dir", readonly_folder / "o"),
            ("vert_seg", "--input-dir", raw / "CT", "--output-dir", readonly_folder / "v"),
            ("train", "--prepared-dir", processed, "--nnunet-dir", readonly_folder / "n")):
        one_line(attempt(f"retroln_nnunet.{module}", options, heed_rights=True),
                 "Permission denied. Change its permissions")


def test_scans_that_cannot_be_segmented(checkpoint, raw, tmp_path):
    ct = sitk.ReadImage(str(raw / "CT" / "P1_0000.nii.gz"))
    absurd = sitk.Image(ct)
    absurd.SetSpacing((1e4, 1, 1))
    nan = sitk.GetImageFromArray(np.full((4, 8, 8), np.nan, np.float32))
    bad = {"four.nrrd": (sitk.JoinSeries([ct, ct]), "3-D"), "flat.nii.gz": (ct[:, :, 2], "3-D"),
           "spacing.mha": (absurd, "spacing"), "nan.nii": (nan, "not numbers"), "constant.mha": (ct * 0, "every voxel")}
    for name, (image, word) in bad.items():
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match=f"{name}: .*{word}"):
            predict.main(["--input", str(tmp_path / name), "--output", str(tmp_path / "out.nii.gz"), "--vertebrae",
                          str(raw / "vertebrae" / "P1"), "--checkpoint", str(checkpoint)])
    assert not list(tmp_path.glob("out*"))
