"""Cropping a 512x512x600 int16 CT (400x400x600 mm, thorax to pelvis) with its six vertebrae: this project's crop.py
over code that loads everything as float64; and 8 cases in 2 processes over one.

    python -m tests.bench.run retroln_crop

Both sides start their own Python, read the same files, find the same region, and write the same crop (float32, [0, 1],
by SimpleITK, same compression). Ours also checks every file to its end, reads the crop back, and writes the region as
JSON. float64: nibabel's `get_fdata`, as in the authors' code, one vertebra after the other, the CT last.
"""
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.phantoms_abdomen import VERTEBRAE, abdomen, write_abdomen_cohort
from tests.bench.measured import measured

FLOAT64 = """
import pathlib, sys
import nibabel, numpy as np, SimpleITK as sitk
from retroln_nnunet.region import region_of
ct, vertebrae, output = sys.argv[1:]
points = {}
for path in pathlib.Path(vertebrae).iterdir():
    mask = nibabel.load(path).get_fdata()
    points[path.name.split(".")[0].removeprefix("vertebrae_")] = np.stack(np.nonzero(mask > 0), axis=1)
    del mask
reader = sitk.ImageFileReader()
reader.SetFileName(ct)
reader.ReadImageInformation()
region = region_of(reader, points)
box = tuple(slice(start, start + size) for start, size in zip(region["start_xyz"], region["size_xyz"]))
crop = (np.clip(nibabel.load(ct).get_fdata()[box], -1000, 400) + 1000) / 1400
sitk.WriteImage(sitk.GetImageFromArray(crop.T.astype(np.float32)), output, True)
"""
LOAD = "import nibabel, sys; nibabel.load(sys.argv[1]).get_fdata()"
UNPACK = """
import gzip, sys
for path in sys.argv[1:]:
    with gzip.open(path) as stream:
        while stream.read(1 << 22):
            pass
"""


def run():
    with tempfile.TemporaryDirectory() as folder:
        folder, ratios = Path(folder), {}
        for suffix in (".nii.gz", ".nii"):
            ct, vertebrae = write_large(folder / suffix[1:], suffix)
            output = str(folder / f"out{suffix}")
            ours = measured([sys.executable, "-m", "retroln_nnunet.crop", "--single", "--ct-file", str(ct),
                             "--vert-seg-file", str(vertebrae), "--ct-output", output])
            crop = sitk.GetArrayFromImage(sitk.ReadImage(output))
            theirs = measured([sys.executable, "-c", FLOAT64, str(ct), str(vertebrae), output])
            assert np.allclose(crop, sitk.GetArrayFromImage(sitk.ReadImage(output)), atol=1e-6)
            load = measured([sys.executable, "-c", LOAD, str(ct)])
            ratios |= {f"{suffix}: time to crop by float64 / ours": theirs[0] / ours[0],
                       f"{suffix}: time to load the CT alone as float64 / ours": load[0] / ours[0],
                       f"{suffix}: memory of ours / of loading the CT as float64": ours[1] / load[1]}
            if suffix == ".nii.gz":  # no reader can do without it
                unpack = measured([sys.executable, "-c", UNPACK, str(ct), *map(str, sorted(vertebrae.iterdir()))])
                ratios[f"{suffix}: time to unpack the seven files once / ours"] = unpack[0] / ours[0]
            print(f"{suffix}: ours {ours}, float64 {theirs}, load {load} (s, GB)", file=sys.stderr)
        write_abdomen_cohort(folder / "raw", patients=8, size=384, slices=200)
        command = [sys.executable, "-m", "retroln_nnunet.crop", "--data-dir", str(folder / "raw"), "--output-dir"]
        serial = measured([*command, str(folder / "serial")])[0]
        parallel = measured([*command, str(folder / "parallel"), "--parallel", "--num-processes", "2"])[0]
        print(f"8 cases: {serial:.1f} s, with 2 processes {parallel:.1f} s", file=sys.stderr)
        return {**ratios, "8 cases: time of one process / of two": serial / parallel}


def write_large(folder, suffix):
    """(CT, folder of vertebrae): phantom abdomens of 240 mm one above the other, all noisy; one has vertebrae."""
    hu, _, vertebrae = abdomen(0, (60, 128, 128), (400 / 128, 400 / 128, 4.0))
    rng, first = np.random.default_rng(0), 180
    (folder / "v").mkdir(parents=True)

    def write(plane, kind, path):
        image = sitk.GetImageFromArray(np.stack([plane(k).repeat(4, 0).repeat(4, 1).astype(kind) for k in range(600)]))
        image.SetSpacing((400 / 512, 400 / 512, 1.0))
        sitk.WriteImage(image, str(path), True)
        return path

    def spine(label):
        return lambda k: vertebrae[min(max((k - first) // 4, 0), 59)] * (first <= k < first + 240) == label

    for label, name in enumerate(VERTEBRAE, 1):
        write(spine(label), np.uint8, folder / "v" / f"vertebrae_{name}{suffix}")
    path = write(lambda k: hu[(k - first) // 4 % 60], np.int16, folder / f"ct{suffix}")
    image = sitk.ReadImage(str(path))
    noise = np.stack([rng.standard_normal((512, 512), np.float32) for _ in range(600)]) * 12
    noisy = sitk.GetImageFromArray(np.clip(sitk.GetArrayViewFromImage(image) + noise, -1024, 3071).astype(np.int16))
    noisy.CopyInformation(image)
    sitk.WriteImage(noisy, str(path), True)
    return path, folder / "v"
