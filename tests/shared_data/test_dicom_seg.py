"""Segmentations as highdicom and dcmqi read them, on every kind of series."""
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.dicom_seg import write_seg
from shared_data.volume import read_volume

SAGITTAL = (0, 1, 0, 0, 0, -1)
OBLIQUE = tuple(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4).GetMatrix()[i] for i in (0, 3, 6, 1, 4, 7))
NAMES = {1: "Parotid_L", 2: "nodule", 5: "Höcker"}


def labels_of(ct):
    labels = sitk.GetImageFromArray(np.random.default_rng(0).choice([0, 1, 2, 5], ct.GetSize()[::-1]).astype(np.uint8))
    labels.CopyInformation(ct)
    return labels


def segread(path):
    from highdicom.seg import segread as read
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(path)


@pytest.mark.parametrize("labelmap", [False, True])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0), SAGITTAL, OBLIQUE])
def test_highdicom_reads_the_same_labels_on_the_same_slices(ball, stack, tmp_path, orientation, labelmap):
    files, _ = ball.draw(tmp_path / "ct", stack(orientation=orientation), orientation)
    np.random.default_rng(1).shuffle(files)
    ct = read_volume(tmp_path / "ct")
    labels = labels_of(ct)
    write_seg(labels, NAMES, files, tmp_path / "seg.dcm", "S-Net", labelmap)
    seg = segread(tmp_path / "seg.dcm")
    volume = seg.get_volume(combine_segments=True)
    index = np.stack(np.indices(volume.array.shape), -1).reshape(-1, 3)[::97]
    for place in index:  # by position in mm, whatever the order of its axes
        mm = volume.affine[:3, :3] @ place + volume.affine[:3, 3]
        label = labels[labels.TransformPhysicalPointToIndex(mm.tolist())]
        assert volume.array[tuple(place)] == {0: 0, 1: 1, 2: 2, 5: 3}[label]
    described = [seg.get_segment_description(number) for number in (1, 2, 3)]
    assert [segment.segment_label for segment in described] == list(NAMES.values())
    assert [segment.segmented_property_type.meaning for segment in described] == ["Parotid gland", "Nodule", "Organ"]
    assert {segment.algorithm_type.value for segment in described} == {"AUTOMATIC"}
    assert described[0].algorithm_identification[0].AlgorithmName == "S-Net"
    assert seg.ContentDescription == "automatic, unapproved"
    assert seg.FrameOfReferenceUID == pydicom.dcmread(files[0]).FrameOfReferenceUID
    referred = {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred == {pydicom.dcmread(file).SOPInstanceUID for file in files}


def test_an_empty_prediction_is_a_segmentation_too(ct, tmp_path):
    write_dicom_series(ct, tmp_path / "ct")
    empty = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(ct)
    write_seg(empty, {1: "lymph node"}, (tmp_path / "ct").iterdir(), tmp_path / "seg.dcm")
    assert not segread(tmp_path / "seg.dcm").get_volume().array.any()


def test_importing_it_does_not_import_highdicom():
    done = subprocess.run([sys.executable, "-c",
                           "import sys, shared_results.outputs; sys.exit('highdicom' in sys.modules)"])
    assert done.returncode == 0


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="apt-get install dicom3tools")
def test_dciodvfy_finds_no_error(ct, tmp_path):
    write_dicom_series(ct, tmp_path / "ct")
    write_seg(labels_of(ct), NAMES, (tmp_path / "ct").iterdir(), tmp_path / "seg.dcm")
    result = subprocess.run(["dciodvfy", str(tmp_path / "seg.dcm")], capture_output=True, text=True)
    assert "Segmentation" in result.stderr + result.stdout and "Error" not in result.stderr + result.stdout


@pytest.mark.skipif(not shutil.which("segimage2itkimage"), reason="pip install dcmqi")
def test_dcmqi_reads_the_same_labels(ct, tmp_path):
    write_dicom_series(ct, tmp_path / "ct")
    labels = labels_of(ct)
    write_seg(labels, NAMES, (tmp_path / "ct").iterdir(), tmp_path / "seg.dcm")
    subprocess.run(["segimage2itkimage", "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path)],
                   check=True, capture_output=True)
    for number, label in enumerate(NAMES, 1):
        mask = sitk.Resample(sitk.ReadImage(str(tmp_path / f"{number}.nrrd")), labels, sitk.Transform(),
                             sitk.sitkNearestNeighbor)
        assert np.array_equal(sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(labels) == label)
