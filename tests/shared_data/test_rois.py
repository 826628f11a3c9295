"""Which ROI is which organ: common spellings, the user's own mapping, and what a cohort holds."""
import json

import numpy as np
import pytest
import SimpleITK as sitk

from shared_data import rois
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.organ_names import SPELLINGS, identity
from shared_data.rois import NODES, choose_rois, masks_of, read_rois
from shared_data.rtstruct import write_rtstruct
from shared_data.volume import read_volume


@pytest.mark.parametrize("ours, theirs", [
    ("BrainStem", "Brainstem"), ("brain stem", "BRAIN_STEM"), ("Chiasm", "OpticChiasm"), ("Mandible", "Bone_Mandible"),
    ("OpticNerve_L", "OpticNrv_L"), ("optic nerve R", "Rt Optic Nerve"), ("Parotid_L", "Parotid Left"),
    ("Parotid_R", "RPAROTID"), ("Parotid_L", "LParotid"), ("parotid L", "parotid_lt"),
    ("Submandibular_L", "Glnd_Submand_L"), ("Submandibular_R", "SMG_R"), ("lens L", "Lens_L"),
    ("eye R", "Eye_R"), ("spinal cord", "SpinalCord"),
    ("Esophagus", "Oesophagus"), ("Larynx", "LARYNX"), ("temporal lobe L", "Lobe_Temporal_L"),
    ("TM joint R", "Joint_TM_R"),
    ("inner ear L", "Ear_Internal_L"), ("pituitary", "Hypophysis"), ("my organ L", "My_Organ left")])
def test_common_spellings(ours, theirs):
    assert choose_rois([theirs, "PTV60"], [ours], {}, "rs.dcm") == {ours: [theirs]}


@pytest.mark.parametrize("ours, theirs", [
    ("Parotid_L", "Parotid_R"), ("Parotid_L", "Parotids"), ("SpinalCord", "SpinalCord_PRV05"), ("lens L", "Lens"),
    ("BrainStem", "Brain"), ("Parotid_L", "Parotid_L_opt"), ("Mandible", "Mandible_L")])
def test_what_is_something_else(ours, theirs):
    assert choose_rois([theirs], [ours], {}, "rs.dcm") == {}


def test_every_spelling_belongs_to_one_organ_with_a_code():
    from pydicom.sr.codedict import codes
    for code, spellings in SPELLINGS.items():
        assert getattr(codes.SCT, code).scheme_designator == "SCT"
        assert {identity(spelling) for spelling in spellings.split()} == {(code, "")}


def test_the_same_name_comes_first_and_a_choice_is_the_users():
    names = ["Parotid_L", "parotid left", "Brainstem", "brain-stem"]
    assert choose_rois(names, ["Parotid_L"], {}, "rs.dcm") == {"Parotid_L": ["Parotid_L"]}
    with pytest.raises(InputError, match="rs.dcm: 'Brainstem' and 'brain-stem' may both be BrainStem. Say which"):
        choose_rois(names, ["BrainStem"], {}, "rs.dcm")
    assert choose_rois(names, ["BrainStem"], {"BrainStem": ["BRAIN-*"]}, "rs.dcm") == {"BrainStem": ["brain-stem"]}


@pytest.mark.parametrize("name, is_node", [
    ("Lymph node 3", True), ("LN_12", True), ("level IIa LN", True), ("GTVn", True), ("GTV_N1", True), ("Nodes", True),
    ("Colon", False), ("lung", False), ("GTVp", False), ("Larynx", False)])
def test_what_nodes_are_called(name, is_node):
    assert bool(choose_rois([name], NODES, NODES, "rs.dcm")) == is_node


@pytest.mark.parametrize("content, message", [
    ("[]", "not a mapping"), ('{"Liver": "liver"}', "'Liver' is none of our organs: node"),
    ('{"node": 3}', "needs a name"), ('{"node": [3]}', "needs a name"), ("{", "not valid JSON")])
def test_bad_mappings_are_one_line(tmp_path, content, message):
    (tmp_path / "rois.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_rois(tmp_path / "rois.json", NODES)
    (tmp_path / "rois.json").write_text('{"node": "LN*"}')
    assert read_rois(tmp_path / "rois.json", NODES) == {"node": ["LN*"]} and read_rois(None) == {}


@pytest.fixture
def cohort(ct, tmp_path):
    """Two patients of which one has a ROI more; the second's labels."""
    for name, names in (("A", {1: "LN1", 2: "LN2", 3: "Lt Parotid"}), ("B", {1: "LN1", 3: "Lt Parotid"})):
        write_dicom_series(ct, tmp_path / name / "ct")
        labels = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 4, ct.GetSize()[::-1]).astype(np.uint8))
        labels.CopyInformation(ct)
        write_rtstruct(labels, names, (tmp_path / name / "ct").iterdir(), tmp_path / name / "rs")
    return tmp_path, labels


def test_an_organ_of_several_rois_is_all_of_them(cohort):
    folder, labels = cohort
    masks, others = masks_of(folder / "A" / "rs", read_volume(folder / "A"), NODES, NODES)
    assert np.array_equal(sitk.GetArrayFromImage(masks["node"]) > 0, np.isin(sitk.GetArrayFromImage(labels), (1, 2)))
    assert others == ["Lt Parotid"]
    with pytest.raises(InputError, match="none of Liver among its ROIs with contours: LN1, LN2, Lt Parotid"):
        masks_of(folder / "A" / "rs", read_volume(folder / "A"), ["Liver"], {})


def test_the_rois_of_a_cohort_are_listed_with_counts(cohort, capsys):
    folder, _ = cohort
    (folder / "rois.json").write_text(json.dumps({"node": ["LN*"]}))
    assert rois.main(["--data-dir", str(folder), "--rois", str(folder / "rois.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 RTSTRUCTs", "     2 LN1 -> node", "     2 Lt Parotid -> ParotidGland L", "     1 LN2 -> node"]
    content = (folder / "A" / "rs").read_bytes()
    (folder / "A" / "rs").write_bytes(content[:len(content) // 2])
    assert rois.main(["--data-dir", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "1 RTSTRUCTs" in captured.out and "skipped" in captured.err and "cut short" in captured.err
    with pytest.raises(InputError, match="no RTSTRUCT below it"):
        rois.main(["--data-dir", str(folder / "A" / "ct")])
