"""Why shared_data/rtstruct.py uses pydicom alone: a hollow ball through rt-utils, DicomRTTool and our code.

    python -m tests.bench.rtstruct_libraries --tools /path/to/bin

--tools: the bin folder of an environment with `pip install rt-utils DicomRTTool`. Each line: the series, the writer,
the reader, Dice, and volume over the true one. plastimatch (Debian) if installed; it handles axial series only.
"""
import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.dicom import write_dicom_series
from shared_data.rtstruct import read_rtstruct, write_rtstruct
from shared_data.volume import read_volume

RT_UTILS_WRITES = """
from rt_utils import RTStructBuilder
built = RTStructBuilder.create_new(dicom_series_path=ct)
built.add_roi(mask=np.moveaxis(mask, 0, 2), name="shell")
built.save(path)
"""
RT_UTILS_READS = """
from rt_utils import RTStructBuilder
built = RTStructBuilder.create_from(dicom_series_path=ct, rt_struct_path=path)
found = np.moveaxis(built.get_roi_mask_by_name("shell"), 2, 0)
"""
DICOMRTTOOL_READS = """
import shutil, tempfile
from DicomRTTool.ReaderWriter import DicomReaderWriter
both = tempfile.mkdtemp()
shutil.copytree(ct, both, dirs_exist_ok=True)
shutil.copy(path, both + "/rs.dcm")
reader = DicomReaderWriter(Contour_Names=["shell"], arg_max=True, verbose=False)
reader.walk_through_folders(both)
reader.get_images_and_mask() if hasattr(reader, "get_images_and_mask") else (reader.get_images(), reader.get_mask())
found = reader.mask > 0
"""


def by_library(tools, code, ct, path, mask):
    """The array `found` that code leaves behind in the other environment, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/mask.npy", mask)
        done = subprocess.run([tools / "python", "-c", (
            f"import numpy as np\nct, path, found = {str(ct)!r}, {str(path)!r}, 0\n"
            f"mask = np.load('{folder}/mask.npy')\n{code}np.save('{folder}/found.npy', found)")],
            capture_output=True, text=True)
        return np.load(f"{folder}/found.npy") if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def by_plastimatch(ct_folder, ct, path, folder):
    subprocess.run(["plastimatch", "convert", "--input", path, "--referenced-ct", ct_folder, "--output-prefix", folder,
                    "--prefix-format", "nrrd"], capture_output=True, check=True)
    mask = sitk.ReadImage(str(folder / "shell.nrrd"))
    return sitk.GetArrayFromImage(sitk.Resample(mask, ct, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0


def show(series, writer, reader, found, mask):
    if isinstance(found, str) or found.shape != mask.shape:
        print(f"{series:10s} {writer:12s} {reader:12s} {found if isinstance(found, str) else found.shape}")
    else:
        print(f"{series:10s} {writer:12s} {reader:12s} {2 * (found & mask).sum() / (found.sum() + mask.sum()):.4f} "
              f"{found.sum() / mask.sum():.4f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, required=True)
    tools = parser.parse_args().tools
    z, y, x = np.indices((16, 64, 64))
    away = np.sqrt((y - 30) ** 2 + (x - 30) ** 2 + ((z - 8) * 2.5) ** 2)
    drawn = sitk.GetImageFromArray(np.where((away < 14) & (away > 6), 100, -100).astype(np.int16))
    drawn.SetSpacing((1, 1, 2.5))
    oblique = sitk.Image(drawn)
    oblique.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4).GetMatrix())
    for series, image in (("axial", drawn), ("sagittal", sitk.DICOMOrient(drawn, "SPL")), ("oblique", oblique)):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            write_dicom_series(image, folder / "ct")
            ct = read_volume(folder / "ct")
            mask = sitk.GetArrayFromImage(ct) > 0
            write_rtstruct(ct > 0, {1: "shell"}, (folder / "ct").iterdir(), folder / "ours.dcm")
            by_library(tools, RT_UTILS_WRITES, folder / "ct", folder / "rt-utils.dcm", mask)
            for writer in ("ours", "rt-utils"):
                path = folder / f"{writer}.dcm"
                if not path.exists():
                    print(f"{series:10s} {writer:12s} could not write")
                    continue
                found = {"ours": sitk.GetArrayFromImage(read_rtstruct(path, ct)["shell"]) > 0}
                if shutil.which("plastimatch"):
                    found["plastimatch"] = by_plastimatch(folder / "ct", ct, path, folder / writer)
                for reader, code in (("rt-utils", RT_UTILS_READS), ("DicomRTTool", DICOMRTTOOL_READS)):
                    found[reader] = by_library(tools, code, folder / "ct", path, mask)
                for reader, array in found.items():
                    show(series, writer, reader, array, mask)


if __name__ == "__main__":
    main()
