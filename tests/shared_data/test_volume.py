"""Every format read and written with its geometry; every kind of bad file named."""
import gzip
import re
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_data.dicom import write_dicom_series
from shared_data.errors import InputError
from shared_data.volume import (
    check_same_grid,
    geometry,
    image_from,
    onto_scan,
    open_volume,
    read_ct,
    read_mask,
    read_volume,
    to_lps,
    write_volume,
)

FORMATS = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"]
ORIENTATIONS = ["LPS", "RAS", "LAS", "SPL", "PIR", "AIL", "RPI", "ASL"]


def array(image):
    return sitk.GetArrayFromImage(image)


def same_world(image, other):
    check_same_grid(image, other, "other")
    return np.array_equal(array(image), array(other))


@pytest.mark.parametrize("suffix", [*FORMATS, ".nii.gz.nii.gz", ".NII.GZ"])
def test_what_is_written_is_read_back_on_the_same_grid(ct, tmp_path, suffix):
    path = tmp_path / "Ordner mit Lücke" / f"ct é{suffix}"
    write_volume(ct, path)
    assert same_world(ct, read_ct(path))
    assert not list(path.parent.glob(".writing*"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_returns_to_the_grid_of_its_scan(ct, orientation):
    scan = sitk.DICOMOrient(ct, orientation)
    marked = to_lps(scan)
    restored = onto_scan((array(marked) > 500).astype(np.uint8), geometry(scan))
    assert geometry(restored) == geometry(scan)
    assert np.array_equal(array(restored) > 0, array(scan) > 500)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_shows_the_same_voxels_after_to_lps(ct, orientation):
    assert same_world(to_lps(ct), to_lps(sitk.DICOMOrient(ct, orientation)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(*[st.floats(-0.5, 0.5)] * 3), orientation=st.sampled_from(ORIENTATIONS))
def test_oblique_scans_keep_their_geometry(ct, angles, orientation):
    scan = sitk.DICOMOrient(ct, orientation)
    turn = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    scan.SetDirection((turn @ np.reshape(scan.GetDirection(), (3, 3))).ravel())
    restored = onto_scan(array(sitk.Cast(to_lps(scan) > 0, sitk.sitkUInt8)), geometry(scan))
    assert np.allclose(restored.GetDirection(), scan.GetDirection())
    assert np.array_equal(array(restored) > 0, array(scan) > 0)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPL", "PIR"])
def test_a_dicom_folder_is_the_same_ct(ct, tmp_path, orientation):
    scan = sitk.DICOMOrient(ct, orientation)
    write_dicom_series(scan, tmp_path / "a" / "series")
    (tmp_path / "a" / "notes.txt").write_text("not DICOM")
    assert same_world(to_lps(scan), to_lps(read_ct(tmp_path / "a")))  # DICOM knows right-handed axes only


def test_dicom_slices_come_by_position_not_by_name(ct, tmp_path):
    write_dicom_series(ct, tmp_path)
    names = sorted(tmp_path.glob("*.dcm"))
    for name, other in zip(names, np.random.default_rng(0).permutation(len(names))):
        name.rename(tmp_path / f"z{other}")
    assert same_world(ct, read_ct(tmp_path))


def refused(path, reader=read_ct):
    with pytest.raises(InputError) as error:
        reader(path)
    message = str(error.value)
    assert str(path) in message or str(path.parent) in message
    assert "\n" not in message
    return message


def test_bad_dicom_folders_are_refused(ct, tmp_path):
    assert "no DICOM CT" in refused(tmp_path)
    write_dicom_series(ct, tmp_path / "mr", modality="MR")
    assert "no DICOM CT" in refused(tmp_path / "mr")
    write_dicom_series(ct, tmp_path / "gap")
    (tmp_path / "gap" / "0003.dcm").unlink()
    assert "slices are missing" in refused(tmp_path / "gap")
    write_dicom_series(ct, tmp_path / "two" / "a")
    write_dicom_series(ct, tmp_path / "two" / "b")
    assert "2 CT series" in refused(tmp_path / "two")
    write_dicom_series(ct, tmp_path / "twice")
    (tmp_path / "twice" / "again.dcm").write_bytes((tmp_path / "twice" / "0002.dcm").read_bytes())
    assert "same position" in refused(tmp_path / "twice")
    write_dicom_series(ct, tmp_path / "cut")
    last = tmp_path / "cut" / "0005.dcm"
    content = last.read_bytes()
    for part in (0, 100, 500, len(content) - 300):
        last.write_bytes(content[:part])
        refused(tmp_path / "cut")
    assert "name the folder" in refused(last)


@pytest.mark.parametrize("change", [
    {"PixelSpacing": [0, 0]}, {"PixelSpacing": ["inf", 1]}, {"PixelSpacing": [1]}, {"ImagePositionPatient": [1, 2]},
    {"ImagePositionPatient": ["nan", 0, 0]}, {"ImageOrientationPatient": [1, 0.5, 0, 0, 1, 0]},
    {"ImageOrientationPatient": [1, 0, 0]}, {"PixelData": b"\0" * 400}, {"Rows": 10}, {"Rows": 30},
    {"BitsAllocated": 8}, {"NumberOfFrames": 5}, {"PixelSpacing": None}])
@pytest.mark.parametrize("which", ["0002.dcm", "*.dcm"])
@pytest.mark.filterwarnings("ignore")
def test_impossible_dicom_tags_are_refused(ct, tmp_path, change, which):
    write_dicom_series(ct, tmp_path)
    for file in tmp_path.glob(which):
        slice_ = pydicom.dcmread(file)
        for tag, value in change.items():
            setattr(slice_, tag, value)
        slice_.save_as(file)
    refused(tmp_path)


@pytest.mark.parametrize("suffix", [*FORMATS, "compressed.mhd"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_truncated_files_are_refused(ct, tmp_path, suffix, part):
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(ct, str(path), suffix in (".nii.gz", ".nrrd", ".mha", "compressed.mhd"))
    data = next((file for file in tmp_path.iterdir() if file.suffix in (".raw", ".zraw")), path)
    content = data.read_bytes()
    data.write_bytes(content[:int(len(content) * part)])
    refused(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compressed_files_are_refused(ct, tmp_path, suffix):
    path = tmp_path / f"ct{suffix}"
    write_volume(ct, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refused(path)


def test_files_that_are_no_volumes_are_refused(ct, tmp_path):
    assert "no such file" in refused(tmp_path / "absent.nii.gz")
    for name, content in (("text.nii.gz", b"hello"), ("text.nrrd", b"hello"), ("text.mha", b"hello"),
                          ("gz.nii.gz", gzip.compress(b"hello"))):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    (tmp_path / "ct.png").write_bytes(b"x")
    assert "unknown format" in refused(tmp_path / "ct.png")
    sitk.WriteImage(ct[:, :, 0], str(tmp_path / "flat.nrrd"))
    assert "3-D" in refused(tmp_path / "flat.nrrd")
    sitk.WriteImage(sitk.JoinSeries([ct, ct]), str(tmp_path / "time.nii.gz"))
    assert "3-D" in refused(tmp_path / "time.nii.gz")
    sitk.WriteImage(sitk.Compose(ct, ct, ct), str(tmp_path / "colour.nrrd"))
    assert "numbers per voxel" in refused(tmp_path / "colour.nrrd")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_single_nan_is_found_in_every_format(ct, tmp_path, suffix):
    nan = sitk.Cast(ct, sitk.sitkFloat32)
    nan[3, 3, 3] = float("nan")
    sitk.WriteImage(nan, str(tmp_path / f"ct{suffix}"))
    assert "NaN" in refused(tmp_path / f"ct{suffix}")


def test_impossible_values_are_refused(ct, tmp_path):
    nan = sitk.Cast(ct, sitk.sitkFloat32)
    nan[3, 3, 3] = float("nan")
    for image, what in ((nan, "NaN"), (ct * 0, "every voxel is 0"), (ct * 0 - 1000, "every voxel"),
                        (sitk.Clamp(ct, upperBound=-950), "air")):
        write_volume_unchecked(image, tmp_path / "ct.nrrd")
        assert what in refused(tmp_path / "ct.nrrd")


def write_volume_unchecked(image, path):
    sitk.WriteImage(image, str(path))


def nifti_with(path, ct, spacing):
    sitk.WriteImage(ct, str(path))
    header = nibabel.load(path).header
    header["pixdim"][1:4] = spacing
    header["sform_code"] = 0
    path.write_bytes(header.binaryblock + path.read_bytes()[348:])


@pytest.mark.parametrize("suffix, old, new", [
    (".nrrd", b"(0.75,0,0)", b"(0.75,.3,0)"), (".mha", b"TransformMatrix = 1 0 0", b"TransformMatrix = 1 .5 0"),
    (".nrrd", b"space origin: (-20,", b"space origin: (nan,")])
def test_sheared_and_unplaced_volumes_are_refused(ct, tmp_path, suffix, old, new):
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(ct, str(path))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    refused(path)


def test_an_affine_that_is_no_number_is_refused(ct, tmp_path):
    sitk.WriteImage(ct, str(tmp_path / "ct.nii"))
    header = nibabel.load(tmp_path / "ct.nii").header
    header["srow_x"][3] = np.nan
    (tmp_path / "ct.nii").write_bytes(header.binaryblock + (tmp_path / "ct.nii").read_bytes()[348:])
    assert "not numbers" in refused(tmp_path / "ct.nii")


def test_complex_numbers_are_refused(ct, tmp_path):
    nibabel.save(nibabel.Nifti1Image(array(ct).T.astype(np.complex64), np.eye(4)), tmp_path / "ct.nii.gz")
    assert "complex" in refused(tmp_path / "ct.nii.gz")


def test_impossible_spacing_is_refused(ct, tmp_path):
    for spacing in ((0, 1, 1), (1, 1, 5000), (1, np.nan, 1), (1e-5, 1, 1)):
        nifti_with(tmp_path / "ct.nii", ct, spacing)
        assert "spacing" in refused(tmp_path / "ct.nii")
    write_volume(ct, tmp_path / "ct.mha")
    content = (tmp_path / "ct.mha").read_bytes()
    (tmp_path / "ct.mha").write_bytes(content.replace(b"ElementSpacing = 0.75", b"ElementSpacing = 0.00"))
    refused(tmp_path / "ct.mha")


def test_affines_off_by_rounding_are_read_and_sheared_ones_refused(ct, tmp_path):
    affine = np.diag([-0.75, -0.5, 2.5, 1])
    affine[0, 1] = 0.0005
    nibabel.save(nibabel.Nifti1Image(array(ct).T, affine), tmp_path / "ct.nii.gz")
    image = read_ct(tmp_path / "ct.nii.gz")
    assert np.array_equal(array(image), array(ct))
    assert np.allclose(image.GetSpacing(), ct.GetSpacing(), atol=1e-3)
    affine[0, 1] = 0.2
    nibabel.save(nibabel.Nifti1Image(array(ct).T, affine), tmp_path / "ct.nii.gz")
    assert "right angles" in refused(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("suffix, place", [
    (".nhdr", "{}"), (".mhd", "{}"), (".nhdr", "../secret"), (".mhd", "sub/../../secret"),
    (".nhdr", "LIST\nct.raw\n{}"), (".mhd", "../%03d.raw 1 6 1"), (".nhdr", "{}\ndata file:=ct.raw"), (".nrrd", "{}"),
    (".mha", "{}")])
def test_data_outside_the_folder_of_its_header_is_refused(ct, tmp_path, suffix, place):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    detached = {".nrrd": ".nhdr", ".mha": ".mhd"}.get(suffix, suffix)
    folder.mkdir()
    sitk.WriteImage(ct, str(folder / f"ct{detached}"))
    secret.write_bytes((folder / "ct.raw").read_bytes())
    header = (folder / f"ct{detached}").read_text()
    for blank in ("", "\n\n" if suffix[1] == "m" else ""):  # MetaImage's reader skips empty lines
        (folder / f"ct{suffix}").write_text(blank + header.replace("ct.raw", place.format(secret)))
        assert "lies outside its folder" in refused(folder / f"ct{suffix}")


def test_data_below_the_folder_of_its_header_and_endless_headers(ct, tmp_path):
    for suffix in (".nhdr", ".mhd"):
        sitk.WriteImage(ct, str(tmp_path / f"ct{suffix}"))
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "ct.raw").rename(tmp_path / "sub" / "data.raw")
        header = (tmp_path / f"ct{suffix}").read_text().replace("ct.raw", "sub/data.raw")
        (tmp_path / f"ct{suffix}").write_text(header)
        assert same_world(ct, read_ct(tmp_path / f"ct{suffix}"))
        comment = "# x\n" if suffix == ".nhdr" else "Comment = x\n"
        first, rest = header.split("\n", 1)
        (tmp_path / f"ct{suffix}").write_text(f"{first}\n{comment * 400_000}{rest}")
        assert "has no end" in refused(tmp_path / f"ct{suffix}")


def test_masks_hold_only_known_labels(ct, tmp_path):
    labels = sitk.Cast(ct > 0, sitk.sitkUInt8) * 3
    write_volume(labels, tmp_path / "mask.nrrd")
    assert "labels 3 are unknown" in refused(tmp_path / "mask.nrrd", read_mask)
    assert array(read_mask(tmp_path / "mask.nrrd", any_label=True)).max() == 1
    assert array(read_mask(tmp_path / "mask.nrrd", foreground=(1, 2, 3))).max() == 3
    write_volume(ct, tmp_path / "mask.nrrd")
    with pytest.raises(InputError, match="labels above"):
        read_mask(tmp_path / "mask.nrrd", any_label=True)


def test_a_mask_on_another_grid_is_refused(ct):
    for change, what in (({"spacing_xyz": [0.75, 0.5, 2.6]}, "spacing"), ({"origin_xyz": [-20, 30, 101]}, "origin"),
                         ({"direction": [-1, 0, 0, 0, -1, 0, 0, 0, 1]}, "direction")):
        changed = image_from(array(ct), {**geometry(ct), **change})
        with pytest.raises(InputError, match=f"mask.nrrd: {what}"):
            check_same_grid(ct, changed, "mask.nrrd")
    with pytest.raises(InputError, match="mask.nrrd: size"):
        check_same_grid(ct, ct[1:], "mask.nrrd")


def test_unknown_output_formats_are_refused(ct, tmp_path):
    with pytest.raises(InputError, match="unknown format"):
        write_volume(ct, tmp_path / "mask.png")


def test_read_volume_takes_any_number_type(ct, tmp_path):
    for kind in (sitk.sitkUInt8, sitk.sitkFloat32, sitk.sitkFloat64, sitk.sitkInt32):
        sitk.WriteImage(sitk.Cast(sitk.Abs(ct), kind), str(tmp_path / "x.nrrd"))
        assert read_volume(tmp_path / "x.nrrd").GetSize() == ct.GetSize()


KINDS = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]


def same_image(image, other):
    return (image.GetPixelID() == other.GetPixelID() and geometry(image) == geometry(other)
            and np.array_equal(array(image), array(other)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_volumes_are_those_that_itk_reads(ct, tmp_path, suffix, kind):
    path = tmp_path / f"ct{suffix}"
    write_volume(image_from(array(ct).clip(0, 100).astype(kind), geometry(ct)), path)
    assert same_image(read_volume(path), sitk.ReadImage(str(path)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_packed_voxels_are_unpacked_once(ct, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"ct{suffix}"
    write_volume(ct, path)
    monkeypatch.delattr("SimpleITK.ReadImage")
    image = read_volume(path)
    assert same_world(ct, image)
    assert not image.GetMetaDataKeys()  # ITK's matrices would break the lines of a MetaImage header


def test_large_volumes_are_read_by_itk(ct, tmp_path, monkeypatch):
    monkeypatch.setattr("shared_data.integrity.KEPT_BYTES", 1000)
    monkeypatch.setattr("SimpleITK.GetImageFromArray", None)
    for suffix in (".nii.gz", ".nrrd"):
        write_volume(ct, tmp_path / f"ct{suffix}")
        assert same_image(read_volume(tmp_path / f"ct{suffix}"), sitk.ReadImage(str(tmp_path / f"ct{suffix}")))


@pytest.mark.parametrize("slope, inter", [(1, 0), (1, -1024), (0.5, 3)])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["u1", "i2", "f4"])
def test_nifti_of_either_byte_order_and_any_scale_is_what_itk_reads(tmp_path, kind, order, slope, inter):
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(order + kind))
    header.set_slope_inter(slope, inter)
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), order + kind), np.diag([2, 3, 4, 1]), header)
    stored = np.arange(120).reshape(4, 5, 6).astype(order + kind)
    path = tmp_path / "ct.nii.gz"
    with gzip.open(path, "wb") as stream:
        header = image.header
        header.set_slope_inter(slope, inter)
        header["vox_offset"] = 352
        header.write_to(stream)
        stream.write(bytes(4) + stored.tobytes("F"))
    assert same_image(read_volume(path), sitk.ReadImage(str(path)))


@pytest.mark.parametrize("suffix, old, new, order, before", [
    (".nrrd", b"endian: little", b"endian: big", ">", b""),
    (".nrrd", b"encoding: gzip", b"encoding: gzip\nbyte skip: 8", "<", bytes(8)),
    (".nrrd", b"type: short", b"type: short\ncontent: nine bytes too many", "<", bytes(9)),
    (".mha", b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True", ">", b""),
    (".mha", b"ElementType", b"ElementToIntensityFunctionSlope = 2\nElementType", "<", b"")])
def test_packed_voxels_that_need_more_than_unpacking_are_what_itk_reads(ct, tmp_path, suffix, old, new, order, before):
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(ct, str(path), useCompression=True)
    head, mark, _ = path.read_bytes().partition(b"\n\n" if suffix == ".nrrd" else b"ElementDataFile = LOCAL\n")
    packed = (gzip if suffix == ".nrrd" else zlib).compress(before + array(ct).astype(order + "i2").tobytes())
    head = re.sub(rb"CompressedDataSize = \d+", b"CompressedDataSize = %d" % len(packed), head)
    assert old in head + mark
    path.write_bytes(head.replace(old, new) + mark + packed)
    assert same_image(read_volume(path), sitk.ReadImage(str(path)))


@pytest.mark.parametrize("suffix", FORMATS)
def test_slices_that_pass_by_are_those_of_the_volume(ct, tmp_path, suffix):
    write_volume(sitk.DICOMOrient(ct, "PIR"), tmp_path / f"ct{suffix}")
    whole = read_volume(tmp_path / f"ct{suffix}")
    grid, slices = open_volume(tmp_path / f"ct{suffix}")
    assert geometry(grid) == geometry(whole) and grid.GetPixelID() == whole.GetPixelID()
    assert np.array_equal(np.stack(list(slices)), array(whole))


@pytest.mark.parametrize("kind, slope, inter", [
    ("<i2", 1, 0), (">i2", 1, 0), ("<u1", 0.5, -10), ("<f4", 2, 3), ("<i4", 1, 0), ("<f8", 1, 0)])
def test_slices_of_nifti_are_scaled_and_ordered_as_itk_does(tmp_path, kind, slope, inter):
    stored = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(kind)
    image = nibabel.Nifti1Image(stored, np.diag([2.0, 3, 4, 1]))
    image.header.set_data_dtype(kind)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, tmp_path / "x.nii")
    header = nibabel.load(tmp_path / "x.nii").header
    start = int(header["sizeof_hdr"]) + 4
    header["scl_slope"], header["scl_inter"], header["vox_offset"] = slope, inter, start
    header = header.as_byteswapped(kind[0]) if header.endianness != kind[0] else header
    (tmp_path / "x.nii").write_bytes(header.binaryblock.ljust(start, b"\0") + stored.tobytes("F"))
    whole = array(read_volume(tmp_path / "x.nii"))
    assert np.allclose(np.stack(list(open_volume(tmp_path / "x.nii")[1])), whole, rtol=1e-6)
    assert np.allclose(whole, stored.T * float(slope) + inter)


def test_a_damaged_nifti_file_is_told_when_its_slices_have_passed(ct, tmp_path):
    path = tmp_path / "ct.nii.gz"
    write_volume(ct, path)
    path.write_bytes(path.read_bytes()[:-4])  # the checksum
    with pytest.raises(InputError, match="ct.nii.gz: damaged or cut short"):
        list(open_volume(path)[1])
    nifti_with(tmp_path / "ct.nii", ct, (0, 1, 1))
    with pytest.raises(InputError, match="spacing .* impossible"):
        open_volume(tmp_path / "ct.nii")
    with pytest.raises(InputError, match="no such file"):
        open_volume(tmp_path / "absent.nii")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int8])
def test_a_ct_can_hold_air_whatever_its_file_can(tmp_path, kind):
    values = np.arange(24, dtype=kind).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "ct.nrrd"))
    ours = array(read_ct(tmp_path / "ct.nrrd"))
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, values)
