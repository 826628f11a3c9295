"""Real organs written as RTSTRUCT and DICOM SEG and read back by our reader and by others: how much stays the same.

    python -m tests.bench.rtstruct_roundtrip --data /path/to/han_contours [--patients 3] [--worst OUT.png]

--data: <patient>_oncologist.nii.gz with labels.json {"ids": {organ: label}}. Each patient's labels are written for a
CT made for them as a DICOM series, then read by our code, plastimatch (Debian), highdicom and dcmqi; and our code reads
what plastimatch and rt-utils write of the same masks. dciodvfy (dicom3tools, Debian) checks both files. --tools: the
bin folder of a separate environment with `pip install rt-utils dcmqi` (rt-utils installs a package called tests).
Missing tools are named and left out. --worst: pictures of the four worst that are larger than 1 ml, reference green.
"""
import argparse
import math
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.dicom_seg import write_seg
from shared_data.files import read_json
from shared_data.metrics import dice, surface_distances
from shared_data.rtstruct import read_rtstruct, write_rtstruct
from shared_data.volume import read_volume
from shared_results.pictures import contact_sheet, overlay, save_picture


TOOLS = Path(sys.executable).parent  # set by --tools
RT_UTILS = """
import sys, SimpleITK as sitk, numpy as np
from rt_utils import RTStructBuilder
ct, labels, out, *names = sys.argv[1:]
labels, built = sitk.GetArrayFromImage(sitk.ReadImage(labels)), RTStructBuilder.create_new(dicom_series_path=ct)
for label, name in zip(names[::2], names[1::2]):
    built.add_roi(mask=np.moveaxis(labels == int(label), 0, 2), name=name)
built.save(out)
"""


def program(name):
    return shutil.which(name) or shutil.which(name, path=TOOLS)


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stdout[-300:]}{done.stderr[-300:]}")
    return done.stdout + done.stderr


def onto(ct, image):
    """The voxels (z, y, x) of an image or a file at the places of the CT's."""
    image = image if isinstance(image, sitk.Image) else sitk.ReadImage(str(image))
    return sitk.GetArrayFromImage(sitk.Resample(image, ct, sitk.Transform(), sitk.sitkNearestNeighbor))


def ours(files, ct, names, folder):
    return {name: sitk.GetArrayFromImage(mask) > 0 for name, mask in read_rtstruct(files["rtstruct"], ct).items()}


def plastimatch(files, ct, names, folder):
    run(program("plastimatch"), "convert", "--input", files["rtstruct"], "--referenced-ct", files["ct"],
        "--output-prefix", folder / "masks", "--prefix-format", "nrrd")
    return {name: onto(ct, folder / "masks" / f"{name}.nrrd") > 0 for name in names.values()
            if (folder / "masks" / f"{name}.nrrd").exists()}


def highdicom(files, ct, names, folder):
    from highdicom.seg import segread
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = segread(files["seg"]).get_volume(combine_segments=True)
    image = sitk.GetImageFromArray(volume.array)
    axes = volume.affine[:3, 2::-1]
    image.SetSpacing(np.linalg.norm(axes, axis=0).tolist())
    image.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    labels = onto(ct, image)
    return {name: labels == number for number, name in enumerate(names.values(), 1)}


def dcmqi(files, ct, names, folder):
    (folder / "dcmqi").mkdir()
    run(program("segimage2itkimage"), "--inputDICOM", files["seg"], "--outputDirectory", folder / "dcmqi")
    return {name: onto(ct, folder / "dcmqi" / f"{number}.nrrd") > 0 for number, name in enumerate(names.values(), 1)
            if (folder / "dcmqi" / f"{number}.nrrd").exists()}


def from_plastimatch(files, ct, names, folder):
    (folder / "in").mkdir()
    for label, name in names.items():
        sitk.WriteImage(files["labels"] == label, str(folder / "in" / f"{name}.nrrd"), True)
    run(program("plastimatch"), "convert", "--input-prefix", folder / "in", "--referenced-ct", files["ct"],
        "--output-dicom", folder / "out")
    return ours({"rtstruct": next((folder / "out").glob("rtss*.dcm"))}, ct, names, folder)


def from_rt_utils(files, ct, names, folder):
    sitk.WriteImage(files["labels"], str(folder / "labels.nrrd"), True)
    run(TOOLS / "python", "-c", RT_UTILS, files["ct"], folder / "labels.nrrd", folder / "rt_utils.dcm",
        *(word for pair in names.items() for word in pair))
    return ours({"rtstruct": folder / "rt_utils.dcm"}, ct, names, folder)


def rt_utils_there():
    return not subprocess.run([TOOLS / "python", "-c", "import rt_utils"], capture_output=True).returncode


READERS = {"ours": (ours, lambda: True), "plastimatch": (plastimatch, lambda: program("plastimatch")),
           "highdicom": (highdicom, lambda: True), "dcmqi": (dcmqi, lambda: program("segimage2itkimage")),
           "from plastimatch": (from_plastimatch, lambda: program("plastimatch")),
           "from rt-utils": (from_rt_utils, rt_utils_there)}


def around_structures(labels):
    """Ten pixels around what was drawn, in plane: the rest of the slices takes time and shows nothing."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(labels > 0)
    x, y, _, width, height, _ = shape.GetBoundingBox(1)
    return labels[max(x - 10, 0):x + width + 10, max(y - 10, 0):y + height + 10, :]


def write_patient(labels, names, folder):
    """{"ct": folder, "rtstruct", "seg": files, "labels": on the grid of the CT read back}"""
    hu = sitk.Cast(labels, sitk.sitkInt16) * 50 - 1000
    write_dicom_series(hu, folder / "ct")
    ct = read_volume(folder / "ct")
    labels = sitk.Resample(labels, ct, sitk.Transform(), sitk.sitkNearestNeighbor)
    files = {"ct": folder / "ct", "rtstruct": folder / "rs.dcm", "seg": folder / "seg.dcm", "labels": labels}
    slices = list((folder / "ct").iterdir())
    write_rtstruct(labels, names, slices, files["rtstruct"], "bench")
    write_seg(labels, names, slices, files["seg"], "bench")
    return ct, files


def compare(reference, found, names, spacing):
    """{organ: (dice, volume ratio, hd95 mm)}"""
    rows = {}
    for label, name in names.items():
        mask, other = reference == label, found.get(name)
        other = np.zeros_like(mask) if other is None else other
        rows[name] = (1.0, 1.0, 0.0) if np.array_equal(mask, other) else (
            dice(mask, other), other.sum() / mask.sum(), surface_distances(mask, other, spacing)["hd95_mm"])
    return rows


def main():
    global TOOLS  # noqa: PLW0603  the readers below look it up
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--patients", type=int)
    parser.add_argument("--tools", type=Path, default=TOOLS)
    parser.add_argument("--worst", type=Path)
    options = parser.parse_args()
    TOOLS = options.tools
    readers = {name: read for name, (read, there) in READERS.items() if there()}
    print("not installed:", ", ".join(set(READERS) - set(readers)) or "nothing", flush=True)
    ids = read_json(options.data / "labels.json")["ids"]
    scores, volumes, complaints, worst = defaultdict(list), defaultdict(list), [], []
    for path in sorted(options.data.glob("*_oncologist.nii.gz"))[:options.patients]:
        labels = around_structures(read_volume(path))
        there = set(np.unique(sitk.GetArrayViewFromImage(labels)).tolist())
        names = {label: name for name, label in ids.items() if label in there}
        with tempfile.TemporaryDirectory() as folder:
            ct, files = write_patient(labels, names, Path(folder))
            reference = sitk.GetArrayFromImage(files["labels"])
            for name in names.values():
                volumes[name].append((reference == ids[name]).sum() * math.prod(ct.GetSpacing()) / 1000)
            for reader, read in readers.items():
                place = Path(folder) / reader.replace(" ", "_")
                place.mkdir()
                found = read(files, ct, names, place)
                for name, row in compare(reference, found, names, ct.GetSpacing()).items():
                    scores[name, reader].append((*row, volumes[name][-1]))
                    if volumes[name][-1] > 1 and row[0] < 1:
                        caption = f"{reader}, {name} {path.name[:12]}: {row[0]:.4f}"
                        picture = differing_slice(reference == ids[name], found[name])
                        worst = sorted([*worst, (row[0], picture, caption)], key=lambda item: item[0])[:4]
            if program("dciodvfy"):
                for file in (files["rtstruct"], files["seg"]):
                    said = subprocess.run([program("dciodvfy"), str(file)], capture_output=True, text=True)
                    complaints += [line for line in (said.stdout + said.stderr).splitlines() if "Error" in line]
        print(f"  {path.name}: {len(names)} organs", flush=True)
    show(ids, scores, volumes, readers)
    print("dciodvfy:", ("no error in any RTSTRUCT or SEG" if not complaints else sorted(set(complaints)))
          if program("dciodvfy") else "not installed")
    if options.worst and worst:
        save_picture(options.worst, contact_sheet([tuple(rest) for _, *rest in worst], 2))


def differing_slice(mask, other):
    """A picture of the slice where the two differ most."""
    k = int((mask ^ other).sum((1, 2)).argmax())
    used = np.argwhere(mask[k] | other[k])
    (top, left), (bottom, right) = np.maximum(used.min(0) - 4, 0), used.max(0) + 5
    return overlay(np.full((bottom - top, right - left), 0.2), mask[k, top:bottom, left:right],
                   other[k, top:bottom, left:right], 480)


def show(ids, scores, volumes, readers):
    print(f"\n{'lowest Dice / largest volume error % / largest HD95 mm':40s}" + "".join(f"{r:>24s}" for r in readers))
    for name in ids:
        if not volumes[name]:
            continue
        line = f"{name:20s} {len(volumes[name]):3d} x {np.median(volumes[name]):8.2f} ml   "
        for reader in readers:
            rows = np.array(scores[name, reader])
            line += f"   {rows[:, 0].min():7.4f} {100 * abs(rows[:, 1] - 1).max():6.2f} {rows[:, 2].max():5.2f}"
        print(line)
    for least in (0, 1):
        line = f"{'all' if not least else 'over 1 ml':40s}"
        for reader in readers:
            rows = np.array([row for (_, other), found in scores.items() if other == reader for row in found])
            rows = rows[rows[:, 3] > least]
            line += f"   {rows[:, 0].min():7.4f} {100 * abs(rows[:, 1] - 1).max():6.2f} {rows[:, 2].max():5.2f}"
        print(line)


if __name__ == "__main__":
    main()
