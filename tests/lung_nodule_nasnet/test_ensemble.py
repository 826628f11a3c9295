"""Folds give their mean probability, and a map of where they disagree."""
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import tables

from lung_nodule_nasnet import predict, test
from lung_nodule_nasnet.checkpoint import load_checkpoint, load_network, save_checkpoint
from lung_nodule_nasnet.inference import nodule_probability, segment, segment_members
from lung_nodule_nasnet.prepared_scans import PreparedScan
from shared_data.errors import InputError
from shared_data.files import read_json, read_table, write_json


@pytest.fixture(scope="module")
def runs(run_dir, tmp_path_factory):
    """Two folds, the second with another last layer."""
    folder, path = tmp_path_factory.mktemp("folds"), run_dir / "last.npz"
    state, groups = load_checkpoint(path)
    for number, sign in ((1, 1), (2, -1)):
        weights = [*groups["weights"]]
        last = max(i for i, array in enumerate(weights) if array.ndim == 4)
        weights[last] = sign * weights[last]
        save_checkpoint(folder / f"fold{number}" / "best.npz", state, weights=weights)
    return folder


def test_members_give_their_mean_probability_and_their_votes(runs, luna):
    networks = [load_network(path)[0] for path in sorted(runs.glob("*/best.npz"))]
    config = load_network(next(runs.glob("fold1/*")))[1]
    shape = (config.predict_batch, config.size, config.size, 1)
    images = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    mean, each = nodule_probability(networks, images)
    assert np.allclose(mean, (each[0] + each[1]) / 2) and not np.allclose(each[0], each[1])
    ct = sitk.ReadImage(str(next(luna.rglob("*.mhd"))))
    _, probability, _, votes = segment_members(networks, ct, config)
    alone = [segment(network, ct, config) for network in networks]
    assert np.allclose(probability, np.mean([one[1] for one in alone], axis=0), atol=1e-5)
    assert np.array_equal(votes, [one[0] for one in alone])


def test_folds_predict_and_score_together(runs, luna, prepared, tmp_path):
    scan = min(luna.rglob("*.mhd"))
    rule = ["--centre-distance", "0", "--min-pixels", "1"]
    predict.main(["--input", str(scan), "--output", str(tmp_path / "mask.nii.gz"), "--device", "cpu", "--ensemble",
                  str(runs), *rule])
    facts = read_json(tmp_path / "mask.json")
    mask, entropy = (sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")))
                     for name in ("mask", "mask_uncertainty"))
    assert len(facts["checkpoints"]) == 2 and mask.any() and (entropy > 0.69).any()
    voxels = [nodule["volume_ml"] for nodule in facts["components"]]
    assert np.average([nodule["disagreement"] for nodule in facts["components"]], weights=voxels) == pytest.approx(
        entropy[mask > 0].mean(), abs=1e-4)
    assert test.main(["--ensemble", str(runs), "--device", "cpu", *rule]) == 0
    rates = read_json(runs / "ensemble" / "validation" / "summary.json")["error_rates"]
    assert {row["votes"] for row in rates} == {"2", "1+1"}
    scans = ["--scans", str(luna), "--bootstrap-samples", "5"]
    assert test.main(["--ensemble", str(runs), "--device", "cpu", *scans]) == 0
    with pytest.raises(InputError, match="--ensemble and --checkpoint: both name the networks"):
        test.main(["--ensemble", str(runs), "--checkpoint", str(runs / "fold1" / "best.npz")])


def test_flips_of_training_are_averaged_on_request(runs, luna, tmp_path):
    path = runs / "fold1" / "best.npz"
    (plain, config), (averaged, _) = (predict.prepare_network(path, "cpu", {}, tta) for tta in (False, True))
    images = np.random.default_rng(0).normal(0, 1, (1, config.size, config.size, 1)).astype(np.float32)
    each = [np.flip(plain.predict_on_batch(np.flip(images, axes)), axes) for axes in ((), (1,), (2,), (1, 2))]
    assert np.allclose(averaged.predict_on_batch(images), np.mean(each, axis=0), atol=1e-6)
    assert not np.allclose(each[0], each[1], atol=1e-4)
    options = ["--input", str(min(luna.rglob("*.mhd"))), "--output", str(tmp_path / "mask.nii.gz"), "--device",
               "cpu", "--tta"]
    predict.main([*options, "--checkpoint", str(path)])
    assert read_json(tmp_path / "mask.json")["tta"] is True
    state, groups = load_checkpoint(path)
    state["config"]["flip_probability"] = 0.0
    save_checkpoint(tmp_path / "plain.npz", state, weights=groups["weights"])
    with pytest.raises(InputError, match="plain.npz: has learnt from no flipped slices. Leave out --tta"):
        predict.main([*options, "--checkpoint", str(tmp_path / "plain.npz")])


def test_the_operating_point_is_the_cut_and_smallest_nodule_it_holds(runs, luna, tmp_path):
    options = ["--checkpoint", str(runs / "fold1" / "best.npz"), "--device", "cpu", "--output-dir", str(tmp_path)]
    assert test.main([*options, "--sweep"]) == 0
    summary = read_json(tmp_path / "summary.json")
    assert summary["calibration"][0]["structure"] == "nodule" and (tmp_path / "calibration.png").exists()
    swept = read_table(tmp_path / "sweep.csv", ["cut", "smallest"])
    plain = [row for row in swept if not row["cut"]]
    assert [row["case"] for row in plain] == [row["case"] for row in read_table(tmp_path / "cases.csv", [])]
    reference_ml = {row["case"]: float(row["reference"]) for row in plain}
    marked = []
    for cut, smallest in (("0.5", "0.0"), ("0.5", "2.0"), ("0.4", "0.5")):
        write_json(tmp_path / "point.json", {"method": "NASNet-GCN", "settings": {
            "threshold_rule": "cut", "cut": float(cut), "smallest_ml": float(smallest)}})
        point = ["--operating-point", str(tmp_path / "point.json")]
        assert test.main([*options, *point]) == 0
        wanted = {row["case"]: row for row in swept if (row["cut"], row["smallest"]) == (cut, smallest)}
        for row in read_table(tmp_path / "cases.csv", []):
            swept_row, voxel_ml = wanted[row["case"]], reference_ml[row["case"]] / float(row["reference_pixels"])
            assert float(swept_row["prediction"]) == pytest.approx(float(row["mask_pixels"]) * voxel_ml)
            assert float(swept_row["overlap"]) == pytest.approx(float(row["overlap_pixels"]) * voxel_ml)
            marked.append(int(row["mask_pixels"]))
        predict.main(["--input", str(min(luna.rglob("*.mhd"))), "--output", str(tmp_path / "mask.nii.gz"), "--device",
                      "cpu", "--checkpoint", str(runs / "fold1" / "best.npz"), *point])
        nodules = read_json(tmp_path / "mask.json")["components"]
        assert all(nodule["volume_ml"] >= float(smallest) for nodule in nodules)
    assert marked[0] > marked[1]


def test_components_go_through_neighbouring_slices_alone():
    masks = np.zeros((4, 8, 8), bool)
    masks[:, 2, 2], masks[2, 5:7, 5] = True, True
    scan = PreparedScan([3, 4, 9, 10], [2.0, 10.0, 10.0])  # 0.2 ml a voxel
    assert scan.voxel_ml == pytest.approx(0.2) and scan.volume(masks).any((1, 2)).tolist() == [1, 1, 0, 1, 1]
    assert np.array_equal(scan.without_small(masks, 0.4), masks)
    assert not scan.without_small(masks, 0.5).any()
    whole = PreparedScan([3, 4, 5, 6], [2.0, 10.0, 10.0]).without_small(masks, 0.5)
    assert whole[:, 2, 2].all() and whole.sum() == 4


def test_a_table_without_spacings_is_scored_and_has_no_operating_point(runs, prepared, tmp_path, capsys):
    shutil.copytree(prepared, tmp_path / "old")
    with tables.open_file(str(tmp_path / "old" / "table.h5"), "a") as table:
        table.remove_node("/spacing_zyx")
    options = ["--checkpoint", str(runs / "fold1" / "best.npz"), "--device", "cpu", "--prepared-dir",
               str(tmp_path / "old"), "--output-dir", str(tmp_path / "out")]
    assert test.main([*options, "--sweep"]) == 0
    assert "prepared before spacings were kept" in capsys.readouterr().out
    assert read_table(tmp_path / "out" / "sweep.csv", ["case", "cut"]) == []
    with pytest.raises(InputError, match="made before spacings were kept, so components have no volume"):
        test.main([*options, "--smallest-ml", "0.1"])
