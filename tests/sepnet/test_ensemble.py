"""The folds that crossval.py left are one ensemble; how far its members agree on an organ stands in the JSON."""
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from sepnet import predict, test
from sepnet.members import find_folds
from shared_data.errors import InputError
from shared_data.files import read_json, read_table


def test_folds_predict_and_score_together(runs, raw, prepared, tmp_path):
    for number, name in enumerate(("two", "one"), 1):
        shutil.copytree(runs / name, tmp_path / "folds" / f"fold{number}" / "member")
    folder, step = tmp_path / "folds", ["--device", "cpu", "--window-step", "8"]
    assert [path.parent.parent.name for path in find_folds(folder)] == ["fold1", "fold2"]
    predict.main(["--input", str(raw / "4" / "data.nii.gz"), "--output", str(tmp_path / "labels.nii.gz"), "--ensemble",
                  str(folder), *step])
    facts = read_json(tmp_path / "labels.json")
    labels, entropy = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")))
                       for name in ("labels", "labels_uncertainty"))
    assert facts["checkpoints"] == [str(path) for path in find_folds(folder)]
    found = [row for row in facts["organs"] if row["components"]]
    assert found
    for row in facts["organs"]:
        inside = entropy[labels == row["label"]]
        if inside.size:
            assert row["disagreement"] == pytest.approx(inside.mean(), abs=1e-4)
            assert row["disputed"] == pytest.approx((inside > 0).mean())
        else:
            assert row["disagreement"] is None
    assert test.main(["--ensemble", str(folder), "--prepared-dir", str(prepared), "--sweep", "--smallest-ml", "0.5",
                      *step]) == 0
    swept = {(row["case"], row["organ"]): float(row["prediction"]) for row in read_table(
        folder / "ensemble" / "valid" / "sweep.csv", []) if row["smallest"] == "0.5"}
    drawn = [row for row in read_table(folder / "ensemble" / "valid" / "organs.csv", []) if float(row["reference_ml"])]
    assert swept == {(row["case"], row["organ"]): pytest.approx(float(row["prediction_ml"])) for row in drawn} != {}
    assert read_json(folder / "ensemble" / "valid" / "summary.json")["calibration"][0]["structure"] == "all"
    rows = read_table(folder / "ensemble" / "valid" / "organs.csv", ["disagreement", "disputed"])
    assert len(rows) == 22 and np.isfinite([float(row["disputed"]) for row in rows if row["disputed"]]).all()
    with pytest.raises(InputError, match="--ensemble and --checkpoint: both name"):
        test.main(["--ensemble", str(folder), "--checkpoint", str(find_folds(folder)[0])])
