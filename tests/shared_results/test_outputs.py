"""The options that predict.py of every project shares, and the files they write."""
import re

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from shared_data.colour_tables import write_colour_tables
from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.rtstruct import read_rtstruct
from shared_data.settings import parse_options
from shared_data.volume import read_mask, read_volume
from shared_results.outputs import ResultOptions, check_results, write_results

NAMES = {1: "brain stem", 2: "Parotid_L"}


@pytest.fixture
def folder(ct, tmp_path):
    write_dicom_series(ct, tmp_path / "ct")
    return tmp_path


def options_for(folder, *more):
    return parse_options(ResultOptions, list(map(str, (
        "--input", folder / "ct", "--output", folder / "out" / "labels.nii.gz", *more))))


@pytest.mark.parametrize("seg_type", ["binary", "labelmap"])
def test_labels_come_as_volume_rtstruct_seg_and_with_colour_tables(folder, seg_type):
    options = options_for(folder, "--rtstruct", folder / "out" / "rs.dcm", "--seg", folder / "out" / "seg.dcm",
                          "--seg-type", seg_type)
    check_results(options)
    ct = read_volume(folder / "ct")
    labels = sitk.Cast(ct > 0, sitk.sitkUInt8) + sitk.Cast(ct > 500, sitk.sitkUInt8)
    write_results(labels, NAMES, options, "S-Net")
    assert {path.name for path in (folder / "out").iterdir()} == {
        "labels.nii.gz", "labels.ctbl", "labels.label", "rs.dcm", "seg.dcm"}
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(options.output, (1, 2))), sitk.GetArrayFromImage(labels))
    for label, name in NAMES.items():
        mask = read_rtstruct(options.rtstruct, ct)[name]
        assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(labels) == label)


def test_one_label_needs_no_colour_table(folder):
    labels = sitk.Cast(read_volume(folder / "ct") > 0, sitk.sitkUInt8)
    write_results(labels, {1: "nodule"}, options_for(folder), "NASNet-GCN")
    assert [path.name for path in (folder / "out").iterdir()] == ["labels.nii.gz"]


def test_colour_tables_are_what_slicer_and_itk_snap_read(tmp_path):
    write_colour_tables(NAMES, tmp_path / "labels")
    slicer = [line.split() for line in (tmp_path / "labels.ctbl").read_text().splitlines() if line[0] != "#"]
    assert [(row[0], row[1], row[5]) for row in slicer] == [
        ("0", "background", "0"), ("1", "brain_stem", "255"), ("2", "Parotid_L", "255")]
    snap = (tmp_path / "labels.label").read_text().splitlines()[1:]
    assert [re.fullmatch(r'(\d+) (\d+ ){3}[01] [01] [01] "(.+)"', line)[3] for line in snap] == [
        "Clear Label", *NAMES.values()]
    assert slicer[1][2:5] == snap[1].split()[1:4]


@pytest.mark.parametrize("more, message", [
    (["--input", "ct.nrrd", "--seg", "seg.dcm"], "seg.dcm: DICOM objects refer to .* Give a DICOM folder as --input"),
    (["--rtstruct", "out"], "out: a folder. Name a file"), (["--rtstruct", "ct/0000.dcm"], "would overwrite a file"),
    (["--rtstruct", "a.dcm", "--seg", "a.dcm"], "named twice"), (["--series", "1.2.3", "--seg", "a"], "no CT series"),
    (["--seg-type", "fractional"], "'binary', 'labelmap'")])
def test_impossible_outputs_are_one_line_before_any_work(folder, ct, monkeypatch, more, message):
    monkeypatch.chdir(folder)
    (folder / "out").mkdir()
    sitk.WriteImage(ct, str(folder / "ct.nrrd"))
    with pytest.raises(InputError, match=message) as error:
        check_results(options_for(folder, *more))
    assert "\n" not in str(error.value)


def test_a_series_without_what_can_be_referred_to_is_told_of_before_any_work(folder):
    for file in (folder / "ct").iterdir():
        slice_ = pydicom.dcmread(file)
        del slice_.FrameOfReferenceUID
        slice_.save_as(file)
    check_results(options_for(folder))
    with pytest.raises(InputError, match="FrameOfReferenceUID is missing"):
        check_results(options_for(folder, "--seg", folder / "seg.dcm"))
