"""A full disk and a folder without rights: one line, exit code 2, nothing half written; volumes nobody can use."""
import numpy as np
import pytest
import SimpleITK as sitk

from sepnet import predict
from shared_data.errors import InputError
from tests.faults.attempt import attempt


def one_line(outcome, word):
    assert outcome.code == 2 and len(outcome.lines) == 1 and word in outcome.lines[0], outcome


def left(folder):
    """Files in a folder but for the settings and the lock."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in ("config.json", ".lock")]


def test_a_full_disk_stops_preparation_training_and_prediction(raw, runs, training, tmp_path):
    preparing = ["--data-dir", raw, "--prepared-dir", tmp_path / "prepared", "--crop-size", "48", "--workers", "0"]
    one_line(attempt("sepnet.preprocess", preparing, limit=20_000), "Free some space")
    assert not left(tmp_path / "prepared")
    one_line(attempt("sepnet.train", [*training, "--run-dir", tmp_path / "run"], limit=20_000), "Free some space")
    assert not [path for path in left(tmp_path / "run") if path.suffix in (".pt", ".csv", ".png")]
    predicting = ["--input", raw / "4" / "data.nii.gz", "--output", tmp_path / "out.nii.gz",
                  "--checkpoint", runs / "one" / "best.pt"]
    one_line(attempt("sepnet.predict", predicting, limit=2000), "Free some space")
    assert not list(tmp_path.glob("out*"))


def test_a_folder_without_rights(readonly_folder, raw, runs, training):
    for module, *options in (
            ("preprocess", "--data-dir", raw, "--prepared-dir", readonly_folder),
            ("train", *training, "--run-dir", readonly_folder / "run"),
            ("predict", "--input", raw / "4" / "data.nii.gz", "--output", readonly_folder / "out.mha",
             "--checkpoint", runs / "one" / "best.pt")):
        one_line(attempt(f"sepnet.{module}", options, heed_rights=True), "Permission denied. Change its permissions")


def test_scans_that_cannot_be_segmented(runs, raw, tmp_path):
    ct = sitk.ReadImage(str(raw / "1" / "data.nii.gz"))
    absurd = sitk.Image(ct)
    absurd.SetSpacing((1e4, 1, 1))
    nan = sitk.GetImageFromArray(np.full((4, 8, 8), np.nan, np.float32))
    bad = {"four.nrrd": (sitk.JoinSeries([ct, ct]), "3-D"), "flat.nii.gz": (ct[:, :, 2], "3-D"),
           "spacing.mha": (absurd, "spacing"), "nan.mha": (nan, "not numbers"), "constant.mha": (ct * 0, "every voxel")}
    for name, (image, word) in bad.items():
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(InputError, match=f"{name}: .*{word}"):
            predict.main(["--input", str(tmp_path / name), "--output", str(tmp_path / "out.nii.gz"),
                          "--checkpoint", str(runs / "one" / "best.pt")])
    assert not list(tmp_path.glob("out*"))
