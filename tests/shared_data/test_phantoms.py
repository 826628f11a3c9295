"""Phantoms: same seed, same cohort; the task is not trivial."""
import numpy as np
import SimpleITK as sitk

from shared_data.phantoms import main, neck
from shared_data.phantoms_head import head
from shared_data.phantoms_chest import chest
from shared_data.volume import check_same_grid, read_ct, read_mask

SPACING = (1.5, 1.5, 3.0)


def test_a_cohort_has_the_layout_of_the_real_one(tmp_path):
    main(["--folder", str(tmp_path), "--patients", "2", "--size", "64", "--slices", "8"])
    for patient in ("P1", "P2"):
        assert sorted(path.name for path in (tmp_path / patient).iterdir()) == ["IM0001.nrrd", "Segmentation.nrrd"]
        ct, mask = read_ct(tmp_path / patient / "IM0001.nrrd"), read_mask(tmp_path / patient / "Segmentation.nrrd")
        check_same_grid(ct, mask, "mask")
        assert ct.GetPixelID() == sitk.sitkInt16 and sitk.GetArrayViewFromImage(mask).any()


def test_same_seed_same_patient_other_seed_another():
    (hu, nodes), repeated, other_seed = (neck(seed, (8, 64, 64), SPACING) for seed in (1, 1, 2))
    assert np.array_equal(hu, repeated[0]) and np.array_equal(nodes, repeated[1])
    assert not np.array_equal(nodes, other_seed[1])


def test_no_threshold_finds_the_nodes():
    hu, nodes = neck(3, (16, 96, 96), SPACING)
    nodes = nodes > 0
    best = max(2 * ((hu > cut) & nodes).sum() / ((hu > cut).sum() + nodes.sum()) for cut in range(0, 200, 10))
    assert best < 0.5


def test_a_head_has_all_organs_left_ones_on_the_left(tmp_path):
    main(["--kind", "structseg", "--folder", str(tmp_path), "--patients", "2", "--size", "64", "--slices", "24"])
    for patient in ("1", "2"):
        ct = read_ct(tmp_path / patient / "data.nii.gz")
        mask = read_mask(tmp_path / patient / "label.nii.gz", foreground=range(1, 23))
        check_same_grid(ct, mask, "label")
        labels = sitk.GetArrayFromImage(mask)
        assert set(np.unique(labels)) == set(range(23))
        side = [mask.TransformContinuousIndexToPhysicalPoint(np.argwhere(labels == label).mean(0)[::-1])[0]
                for label in range(1, 23)]  # x, mm to the left
        for left, right in ((2, 3), (4, 5), (6, 7), (9, 10), (12, 13), (14, 15), (16, 17), (18, 19), (21, 22)):
            assert side[left - 1] > side[right - 1] + 10


def test_the_organs_of_a_head_look_like_what_is_beside_them():
    hu, labels = head(3, (32, 96, 96), (2.2, 2.2, 3.25))
    for label in range(1, 23):
        organ = labels == label
        low, high = np.percentile(hu[organ], (10, 90))
        assert ((hu >= low) & (hu <= high) & ~organ).sum() > organ.sum()


def test_a_head_in_pddcas_layout_misses_some_structures(tmp_path):
    main(["--kind", "pddca", "--folder", str(tmp_path), "--patients", "2", "--size", "64", "--slices", "24"])
    names = {patient: sorted(path.stem for path in (tmp_path / patient / "structures").iterdir())
             for patient in ("P1", "P2")}
    assert names["P1"] == ["BrainStem", "Chiasm", "Mandible", "OpticNerve_L", "OpticNerve_R", "Parotid_L", "Parotid_R",
                           "Submandibular_L", "Submandibular_R"]
    assert set(names["P1"]) - set(names["P2"]) == {"Submandibular_R"}
    ct = read_ct(tmp_path / "P1" / "img.nrrd")
    side = {}
    for name in names["P1"]:
        mask = read_mask(tmp_path / "P1" / "structures" / f"{name}.nrrd")
        check_same_grid(ct, mask, name)
        voxels = np.argwhere(sitk.GetArrayViewFromImage(mask)).mean(0)[::-1]
        side[name] = mask.TransformContinuousIndexToPhysicalPoint(voxels.tolist())[0]  # mm to the left
    assert all(side[f"{name}_L"] > side[f"{name}_R"] + 20 for name in ("OpticNerve", "Parotid", "Submandibular"))


def test_a_chest_in_both_layouts(tmp_path):
    main(["--kind", "lidc", "--folder", str(tmp_path / "lidc"), "--patients", "1", "--size", "64", "--slices", "8"])
    series = tmp_path / "lidc" / "LIDC-IDRI-0001" / "study" / "series"
    ct = sitk.GetArrayFromImage(read_ct(series))
    assert ct.shape == (8, 64, 64) and ct.min() == -3024  # -2000 as stored
    assert (series / "readings.xml").read_text().count("<readingSession>") == 4
    main(["--kind", "luna16", "--folder", str(tmp_path / "luna"), "--patients", "2", "--size", "64", "--slices", "8"])
    rows = (tmp_path / "luna" / "annotations.csv").read_text().splitlines()[1:]
    directions = set()
    for path in sorted((tmp_path / "luna" / "subset0").glob("*.mhd")):
        scan = read_ct(path)
        directions.add(scan.GetDirection())
        for _uid, x, y, z, diameter in (row.split(",") for row in rows if row.startswith(path.stem + ",")):
            at = [round(v) for v in scan.TransformPhysicalPointToContinuousIndex((float(x), float(y), float(z)))]
            assert scan[at] > -500 and 5 < float(diameter) < 40
    assert len(directions) == 2


def test_no_threshold_finds_the_nodules_of_a_lung():
    hu, nodules = chest(3, (16, 96, 96))
    nodules = np.any(nodules, axis=0)
    best = max(2 * ((hu > cut) & nodules).sum() / ((hu > cut).sum() + nodules.sum()) for cut in range(-700, 100, 50))
    assert best < 0.5
