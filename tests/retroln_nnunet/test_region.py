"""The region equals the authors' where theirs is right, and lies at the same place in every axis order."""
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from retroln_nnunet.config import VERTEBRAE, Config
from retroln_nnunet.crop import find_region
from retroln_nnunet.region import choose_reference, region_of
from shared_data.errors import InputError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "prep_retroln_crop.json").read_text())
ORDERS = [(case, code) for case, facts in GOLDEN["cases"].items() for code in facts["orientations"]]
SLIPPED = {"SRA", "ILP", "SAR", "ASL"}  # the original takes the wrong axis, or fails


@pytest.fixture
def stored(golden, tmp_path):
    """Function: the mask of a golden case, written in an axis order."""
    masks = np.load(golden / "prep_retroln_crop.npz")

    def write(case, code):
        mask = nib.Nifti1Image(masks[f"mask_{case}"], np.array(GOLDEN["cases"][case]["affine_ras"]))
        turn = nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, ("RAS", code)))
        nib.save(mask.as_reoriented(turn), tmp_path / "mask.nii.gz")
        return tmp_path / "mask.nii.gz"

    return write


@pytest.mark.parametrize("case, code", ORDERS)
def test_region_equals_the_authors(case, code, stored):
    path, facts = stored(case, code), GOLDEN["cases"][case]["orientations"][code]
    ours = find_region(path, path, si_extent="L2")
    if "raises" in facts:
        assert ours["lr_end"] - ours["lr_start"] == 74  # ours works where theirs fails
        with pytest.raises(InputError, match="the original code fails"):
            find_region(path, path, si_extent="L2", landmark="original")
        return
    theirs = facts["returned"]
    region = find_region(path, path, si_extent="L2", landmark="original")
    assert {name: region[name] for name in theirs if name != "voxel_dims"} == {
        name: value for name, value in theirs.items() if name != "voxel_dims"}
    assert np.allclose(region["voxel_dims"], theirs["voxel_dims"])
    if code not in SLIPPED:
        assert ours == region
    else:  # right by the spec: where the same vertebra lies in RAS or its mirror image
        right = GOLDEN["cases"][case]["orientations"]["RAS" if "R" in code else "LPS"]["returned"]
        assert [ours[name] for name in ("lr_start", "lr_end")] == [right["lr_start"], right["lr_end"]]
        assert ours["lr_start"] != theirs["lr_start"]


def test_millimetres_become_voxels_as_in_the_authors_code():
    for spacing, facts in GOLDEN["mm_to_voxels"].items():
        for mm, name in ((180, "crop_180"), (30, "offset_30"), (150, "width_150")):
            ct = sitk.Image((400, 400, 10), sitk.sitkInt16)
            ct.SetSpacing((float(spacing),) * 3)
            points = np.array([[200, 200, k] for k in range(10)])  # LPS: the front has the smallest y
            region = region_of(ct, {"L2": points}, Config(ap_mm=mm, ap_offset_mm=0, lr_mm=mm))
            assert min(200, facts[name]) == region["ap_end"] - region["ap_start"]


def test_height_is_that_of_all_vertebrae_or_of_l2():
    boxes = {"L2": GOLDEN["cases"]["iso2"]["l2_boxes"], **{
        name.removeprefix("vertebrae_"): box for name, box in GOLDEN["cases"]["iso2"]["other_vertebra_boxes"].items()}}
    ct = sitk.DICOMOrient(sitk.Image((110, 170, 64), sitk.sitkInt16), "RAS")
    points = {name: np.concatenate([np.argwhere(np.ones([b - a for a, b in box])) + [a for a, _ in box]
                                    for box in boxes[name]]) for name in VERTEBRAE if name in boxes}
    facts = GOLDEN["si_extent"]

    def extent(points, **settings):
        region = region_of(ct, points, replace(Config(), **settings))
        return [region["si_min"], region["si_max"]]

    assert extent(points) == facts["union_of_all_vertebrae"]
    assert extent(points, si_extent="L2") == facts["with_all_vertebrae"]
    rest = {name: points[name] for name in points if name != "L2"}
    assert extent(rest, si_extent="L2", landmark="original") == facts["without_l2"]
    assert choose_reference(rest) == "L1" and choose_reference(rest, "original") == "T12"


@pytest.mark.parametrize("present, reference", [("L5", "L5"), ("T12 L5", "T12"), ("L3 L4", "L3"), ("T12 L4 L5", "T12")])
def test_without_l2_the_nearest_vertebra_takes_its_place(present, reference):
    points = {name: np.array([[50, 60, k] for k in range(8)]) for name in present.split()}
    region = region_of(sitk.Image((100, 100, 8), sitk.sitkInt16), points)
    assert region["reference"] == reference
    assert region["warnings"] == [f"L2 is missing, {reference} takes its place"]
