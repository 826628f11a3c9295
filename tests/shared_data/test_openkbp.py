"""OpenKBP as published: axes, sides, Hounsfield units, and the rule of the dose mask."""
import numpy as np
import pytest
import SimpleITK as sitk

from shared_data.errors import InputError
from shared_data.openkbp import AIR_HU, ORGANS, find_cases, read_case
from tests.openkbp_layout import BOXES, LUNG, SPACING_MM, STICKS_OUT, hu_of, write_case, write_cohort


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(folder, its grey values and dose mask, what was read)."""
    folder = tmp_path_factory.mktemp("open-kbp") / "pt_1"
    return folder, *write_case(folder), read_case(folder, ORGANS)


def centre_mm(labels, organ):
    voxels = np.argwhere(sitk.GetArrayFromImage(labels) == ORGANS.index(organ) + 1)
    return np.array(labels.TransformContinuousIndexToPhysicalPoint(voxels.mean(0)[::-1].tolist()))


def test_axes_sides_and_spacing_are_those_of_the_patient(case):
    ct, labels, drawn, _ = case[3]
    assert drawn == ["BrainStem", "Parotid_R", "Parotid_L", "Mandible"]
    assert ct.GetSpacing() == (SPACING_MM[1], SPACING_MM[0], SPACING_MM[2]) == labels.GetSpacing()
    assert ct.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)  # x to the left, y to the back, z up
    right, left = centre_mm(labels, "Parotid_R"), centre_mm(labels, "Parotid_L")
    assert left[0] - right[0] == pytest.approx(40 * SPACING_MM[1])
    stem, jaw = centre_mm(labels, "BrainStem"), centre_mm(labels, "Mandible")
    assert stem[1] - jaw[1] == pytest.approx(30 * SPACING_MM[0])  # the jaw lies in front
    assert stem[2] - jaw[2] == pytest.approx(8 * SPACING_MM[2])  # and below


def test_grey_values_are_hounsfield_units(case):
    _, grey, inside, (ct, *_) = case
    hu = sitk.GetArrayFromImage(ct)
    assert hu.dtype == np.int16 and np.array_equal(hu, hu_of(grey, inside))
    y, x, z = LUNG
    assert hu[127 - z, y, x] == AIR_HU


def test_no_voxel_outside_the_dose_mask_differs_from_air(case):
    """The trap: structures are published with the CT under them, so that their outlines show where the mask ends."""
    _, grey, inside, (ct, labels, _, notes) = case
    outside = ~inside.transpose(2, 0, 1)[::-1]
    assert (grey[~inside] > 0).any()
    assert (sitk.GetArrayFromImage(ct)[outside] == AIR_HU).all()
    assert not sitk.GetArrayFromImage(labels)[outside].any()
    assert notes == [f"{STICKS_OUT}: 50% inside the dose mask, not drawn"]


def test_organs_are_found_however_the_table_spells_them(case):
    _, labels, drawn, _ = read_case(case[0], ("parotid L", "lens L", "Jaw"))
    assert drawn == ["parotid L", "Jaw"]
    counts = np.bincount(sitk.GetArrayFromImage(labels).ravel())
    volumes = {name: np.prod(np.subtract(high, low) + 1) for name, (low, high) in BOXES.items()}
    assert counts[1:].tolist() == [volumes["LeftParotid"], 0, volumes["Mandible"]]
    with pytest.raises(InputError, match="none of Chiasm is drawn"):
        read_case(case[0], ("Chiasm",))


def test_the_published_split_is_kept(tmp_path):
    root = write_cohort(tmp_path / "open-kbp")
    parts = [("train", "pt_1"), ("train", "pt_2"), ("valid", "pt_3"), ("test", "pt_4")]
    for folder in (root, root / "provided-data"):
        assert [(part, path.name) for part, path in find_cases(folder)] == parts
    (root / "provided-data" / "test-pats").rename(root / "elsewhere")
    with pytest.raises(InputError, match="no test-pats in it"):
        find_cases(root)


@pytest.mark.parametrize("name, damage, message", [
    ("ct.csv", None, "ct.csv: no such file"),
    ("possible_dose_mask.csv", None, "possible_dose_mask.csv: no such file"),
    ("voxel_dimensions.csv", None, "voxel_dimensions.csv: no such file"),
    ("ct.csv", lambda text: text[:len(text) // 2], "ct.csv: (damaged|only)"),
    ("ct.csv", lambda text: "\n".join(text.split("\n")[:9000]) + "\n", "ct.csv: only [0-9]+% of the dose mask"),
    ("ct.csv", lambda text: text.replace("1900.0", "nan", 1), "ct.csv: damaged"),
    ("ct.csv", lambda text: "", "ct.csv: damaged"),
    ("Mandible.csv", lambda text: text[:-2], "Mandible.csv: damaged"),
    ("Mandible.csv", lambda text: text + "9999999,\n", "Mandible.csv: damaged"),
    ("Mandible.csv", lambda text: text + "-5,\n", "Mandible.csv: damaged"),
    ("Mandible.csv", lambda text: "<html>not found</html>\n", "Mandible.csv: damaged"),
    ("possible_dose_mask.csv", lambda text: "\n".join(text.split("\n")[:9000]) + "\n", "486 ml, under 1000"),
    ("voxel_dimensions.csv", lambda text: "4.0\n4.0\n", "not three spacings"),
    ("voxel_dimensions.csv", lambda text: "4.0\n4.0\n0.0\n", "not three spacings"),
    ("voxel_dimensions.csv", lambda text: "", "not three spacings")])
def test_a_damaged_file_is_one_line(tmp_path, name, damage, message):
    write_case(tmp_path / "pt_1")
    path = tmp_path / "pt_1" / name
    text = path.read_text()
    path.unlink()
    if damage:
        path.write_text(damage(text))
    with pytest.raises(InputError, match=message) as raised:
        read_case(tmp_path / "pt_1", ORGANS)
    assert "\n" not in str(raised.value)
