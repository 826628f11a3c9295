"""CTs and checkpoints that nobody can use, made from good ones."""
import gzip
import struct

import numpy as np
import SimpleITK as sitk


def bad_cts(good, folder):
    """{what is wrong: path} of CT files made from a readable one, on disk below `folder` but for the missing one."""
    folder.mkdir(parents=True, exist_ok=True)
    ct = sitk.ReadImage(str(good))
    array = sitk.GetArrayFromImage(ct)
    nan = array.astype(np.float32)
    nan[0, 0, 0] = np.nan

    def save(name, image):
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
           "empty": raw("empty.nii.gz", b""),
           "cut short, gzip": raw("cut.nii.gz", whole[:len(whole) * 2 // 3]),
           "cut short, plain": raw("cut.nii", bytes(plain[:len(plain) // 2])),
           "a flipped byte": raw("flipped.nii.gz", whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255])
                                 + whole[len(whole) // 2 + 1:]),
           "text": raw("text.nii.gz", b"not an image\n"),
           "text as NRRD": raw("text.nrrd", b"not an image\n"),
           "an unknown suffix": raw("scan.jpeg", whole),
           "2-D": save("flat.nii.gz", ct[:, :, 0]),
           "4-D": save("four.nrrd", sitk.JoinSeries([ct, ct])),
           "colour": save("colour.nrrd", sitk.Compose([ct] * 3)),
           "NaN": save("nan.mha", on_grid(nan)),
           "NaN, NIfTI": save("nan.nii.gz", on_grid(nan)),
           "constant": save("constant.nii.gz", on_grid(np.full_like(array, -1000))),
           "an absurd spacing": save("spacing.mha", on_grid(array, Spacing=(1e5, 1e5, 1e5))),
           "an empty folder": folder / "no slices",
           "a folder of text": folder / "Bücher und Hefte"}
    plain[80:84] = struct.pack("<f", 0.0)  # pixdim[1] of the NIfTI header
    bad["zero spacing"] = raw("zero.nii", bytes(plain))
    bad["an empty folder"].mkdir(exist_ok=True)
    bad["a folder of text"].mkdir(exist_ok=True)
    (bad["a folder of text"] / "1.dcm").write_text("not DICOM")
    return bad


def bad_checkpoints(good, folder):
    """{what is wrong: path} of files in place of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = good.read_bytes()
    contents = {"empty": b"", "cut short": whole[:len(whole) // 2], "text": b"weights",
                "a flipped byte": whole[:len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 255])
                + whole[len(whole) // 2 + 1:],
                "a pickle that runs code": b"cbuiltins\nprint\n(S'executed'\ntR."}
    bad = {"missing": folder / f"none{good.suffix}", "a folder": folder}
    for name, content in contents.items():
        bad[name] = folder / f"{name}{good.suffix}"
        bad[name].write_bytes(content)
    return bad
