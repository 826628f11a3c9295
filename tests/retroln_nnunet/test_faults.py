"""A full disk and a folder without rights: one line, exit code 2, nothing half written; scans nobody can use."""
import numpy as np
import pytest
import SimpleITK as sitk

from retroln_nnunet import predict
from shared_data.errors import InputError


def one_line(done, *words):
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and all(word in lines[0] for word in words), done.stderr


def left(folder):
    """Volumes, checkpoints and half-written files below a folder."""
    return [path for path in folder.rglob("*") if path.name.startswith(".writing-")
            or path.name.endswith((".nii.gz", ".pth", ".partial", ".png"))]


def test_a_full_disk(run_on_full_disk, raw, processed, checkpoint, stand_in, tmp_path):
    done = run_on_full_disk("retroln_nnunet.crop", "--data-dir", raw, "--output-dir", tmp_path / "crops", limit=5000)
    one_line(done, "no case could be used. P1: ", "Free some space")
    assert not list((tmp_path / "crops").glob("images/*")) and not list(tmp_path.rglob(".writing-*"))
    one_line(run_on_full_disk("retroln_nnunet.train", "--processed-dir", processed, "--nnunet-dir", tmp_path / "n"),
             "Free some space")
    predicting = ["--checkpoint", checkpoint, "--vertebrae", raw / "vertebrae" / "P4", "--device", "cpu", "--no-mirror"]
    one_line(run_on_full_disk("retroln_nnunet.predict", *predicting, "--input", raw / "CT" / "P4_0000.nii.gz",
                              "--output", tmp_path / "out" / "m.nii.gz", limit=100), "m.nii.gz", "Free some space")
    assert not left(tmp_path / "out") and not left(tmp_path / "n")
    stand_in()
    done = run_on_full_disk("retroln_nnunet.vert_seg", "--input-dir", raw / "CT", "--output-dir", tmp_path / "v",
                            limit=150)
    assert done.returncode == 2 and "Free some space" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "v").glob("*P*"))


def test_a_folder_without_rights(run_without_rights, readonly_folder, raw, processed, stand_in):
    stand_in()
    for module, *options in (
            ("crop", "--data-dir", raw, "--output-dir", readonly_folder / "o"),
            ("vert_seg", "--input-dir", raw / "CT", "--output-dir", readonly_folder / "v"),
            ("train", "--processed-dir", processed, "--nnunet-dir", readonly_folder / "n")):
        one_line(run_without_rights(f"retroln_nnunet.{module}", *options),
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
