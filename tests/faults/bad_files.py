"""CTs and checkpoints that nobody can use, made from good ones."""
import gzip
import shutil
import struct

import numpy as np
import pydicom
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.errors import silenced
from shared_data.volume import read_volume


def bad_cts(good, folder):
    """{what is wrong: path} of CT files made from a readable one, on disk below `folder` but for the missing one."""
    folder.mkdir(parents=True, exist_ok=True)
    ct = read_volume(good)
    array = sitk.GetArrayFromImage(ct)
    nan = array.astype(np.float32)
    nan[0, 0, 0] = np.nan

    def save(name, image):
        with silenced():  # ITK tells of NIfTI's fields that other formats have no place for
            sitk.WriteImage(image, str(folder / name))
        return folder / name

    def on_grid(values, **changes):
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(ct)
        for what, value in changes.items():
            getattr(image, f"Set{what}")(value)
        return image

    def raw(name, content):
        (folder / name).write_bytes(content)
        return folder / name

    whole = save("whole.nii.gz", ct).read_bytes()
    plain = bytearray(gzip.decompress(whole))
    bad = {"missing": folder / "there is none.nii.gz",
           **{what: raw(f"{what}.nii.gz", damage(whole)) for what, damage in DAMAGES.items()},
           "cut short, plain": raw("cut.nii", bytes(plain[:len(plain) // 2])),
           "text as NRRD": raw("text.nrrd", b"not an image\n"),
           "an unknown suffix": raw("scan.jpeg", whole),
           "2-D": save("flat.nii.gz", ct[:, :, 0]),
           "4-D": save("four.nrrd", sitk.JoinSeries([ct, ct])),
           "colour": save("colour.nrrd", sitk.Compose([ct] * 3)),
           "NaN": save("nan.mha", on_grid(nan)),
           "NaN, NIfTI": save("nan.nii.gz", on_grid(nan)),
           "constant": save("constant.nii.gz", on_grid(np.full_like(array, -1000))),
           "an absurd spacing": save("spacing.mha", on_grid(array, Spacing=(1e5, 1e5, 1e5))),
           "MetaImage, data cut short": save("cut.mhd", ct),
           "MetaImage without data": save("alone.mhd", ct),
           "MetaImage, 2-D": save("flat.mhd", ct[:, :, 0]),
           "MetaImage, NaN": save("nan.mhd", on_grid(nan)),
           "MetaImage, text": raw("text.mhd", b"not an image\n"),
           "MetaImage, empty": raw("empty.mhd", b""),
           "an empty folder": folder / "no slices",
           "a folder of text": folder / "Bücher und Hefte"}
    plain[80:84] = struct.pack("<f", 0.0)  # pixdim[1] of the NIfTI header
    bad["zero spacing"] = raw("zero.nii", bytes(plain))
    bad["an empty folder"].mkdir(exist_ok=True)
    bad["a folder of text"].mkdir(exist_ok=True)
    (bad["a folder of text"] / "1.dcm").write_text("not DICOM")
    cut_short(folder / "cut.raw")
    (folder / "alone.raw").unlink()
    whole_numbers = sitk.Cast(ct, sitk.sitkInt16)
    for what, spoil in SERIES_FAULTS.items():
        bad[f"DICOM, {what}"] = folder / f"series with {what}"
        write_dicom_series(whole_numbers, bad[f"DICOM, {what}"])
        spoil(sorted(bad[f"DICOM, {what}"].iterdir()))
    return bad


def cut_short(path):
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def retag(files, tag, value):
    for file in files:
        slice_ = pydicom.dcmread(file)
        setattr(slice_, tag, value)
        slice_.save_as(file)


# {what is wrong: function of a file's bytes}
DAMAGES = {"empty": lambda whole: b"", "cut short": lambda whole: whole[:len(whole) // 2],
           "text": lambda whole: b"not what the name says",
           "a flipped byte": lambda whole: (whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255])
                                            + whole[len(whole) // 2 + 1:])}
# {what is wrong: function of the files of a DICOM series that makes it so}
SERIES_FAULTS = {
    "a slice missing": lambda files: files[len(files) // 2].unlink(),
    "a slice twice": lambda files: shutil.copy(files[1], files[1].with_name("again.dcm")),
    "a slice cut short": lambda files: cut_short(files[2]),
    "a slice of text": lambda files: files[2].write_text("not DICOM"),
    "an empty slice": lambda files: files[2].write_bytes(b""),
    "a slice of another size": lambda files: retag(files[2:3], "Rows", 20),
    "positions that are no numbers": lambda files: retag(files, "ImageOrientationPatient", [0, 0, 0, 0, 0, 0]),
    "another modality": lambda files: retag(files, "Modality", "MR")}


def bad_checkpoints(good, folder):
    """{what is wrong: path} of files in place of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = good.read_bytes()
    contents = {what: damage(whole) for what, damage in DAMAGES.items()}
    contents["a pickle that runs code"] = b"cbuiltins\nprint\n(S'executed'\ntR."
    bad = {"missing": folder / f"none{good.suffix}", "a folder": folder}
    for name, content in contents.items():
        bad[name] = folder / f"{name}{good.suffix}"
        bad[name].write_bytes(content)
    return bad
