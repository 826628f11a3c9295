"""Cropping a 512x512x600 int16 CT with its six vertebrae, over loading the same files as float64 (speed, memory);
and 8 cases with 2 processes, over one.

    python -m tests.bench.run retroln_crop
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.phantoms_abdomen import abdomen, write_abdomen_cohort

VERTEBRAE = ("T12", "L1", "L2", "L3", "L4", "L5")
LOAD = ("import nibabel, pathlib, sys; "
        "volumes = [nibabel.load(path).get_fdata().shape for path in sys.argv[1:]]")


def run():
    with tempfile.TemporaryDirectory() as folder:
        folder, ratios = Path(folder), {}
        for suffix in (".nii.gz", ".nii"):
            ct, vertebrae = write_large(folder / suffix[1:], suffix)
            load = measured([sys.executable, "-c", LOAD, str(ct), *map(str, sorted(vertebrae.iterdir()))])
            crop = measured([sys.executable, "-m", "retroln_nnunet.crop", "--single", "--ct-file", str(ct),
                             "--vert-seg-file", str(vertebrae), "--ct-output", str(folder / f"out{suffix}")])
            ratios[f"{suffix}: time to load as float64 / to crop"] = load[0] / crop[0]
            ratios[f"{suffix}: memory to crop / to load as float64"] = crop[1] / load[1]
        write_abdomen_cohort(folder / "raw", patients=8, size=256, slices=160)
        command = [sys.executable, "-m", "retroln_nnunet.crop", "--data-dir", str(folder / "raw"), "--output-dir"]
        serial = measured([*command, str(folder / "serial")])[0]
        parallel = measured([*command, str(folder / "parallel"), "--parallel", "--num-processes", "2"])[0]
        return {**ratios, "8 cases: time of one process / of two": serial / parallel}


def write_large(folder, suffix):
    """(CT, folder of vertebrae): a phantom of 512x512x600."""
    hu, _, vertebrae = abdomen(0, (150, 128, 128), (260 / 128, 260 / 128, 1.6))
    (folder / "v").mkdir(parents=True)

    def write(array, path):
        image = sitk.GetImageFromArray(array.repeat(4, 0).repeat(4, 1).repeat(4, 2))
        image.SetSpacing((260 / 512, 260 / 512, 0.4))
        sitk.WriteImage(image, str(path))
        return path

    for label, name in enumerate(VERTEBRAE, 1):
        write((vertebrae == label).astype(np.uint8), folder / "v" / f"vertebrae_{name}{suffix}")
    return write(hu, folder / f"ct{suffix}"), folder / "v"


def measured(command):
    """(seconds, peak GB) of a process."""
    wrapper = ("import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=2).returncode; "
               "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", wrapper, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True)
    seconds = time.perf_counter() - start
    code, kilobytes = map(int, done.stdout.split())
    assert code == 0, command
    return seconds, kilobytes / 1e6
