"""Do engines and precisions give the same masks? Scores held-out cases with each and compares with PyTorch in float32.

    python -m tests.bench.engine_agreement focusnet_v2 --run-dir runs/focusnet_v2 --split test

The project is followed by options of its test.py. Prints seconds, the smallest Dice of an organ's voxels pooled over
all cases, how many organs stay below 0.998, and the largest change of a mean score in summary.json.
"""
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

VARIANTS = [(engine, precision) for engine in ("torch", "openvino") for precision in ("32-true", "bf16-mixed")]


def main():
    project, *options = sys.argv[1:]
    test = importlib.import_module(f"{project}.test")
    with tempfile.TemporaryDirectory() as folder:
        for engine, precision in VARIANTS:
            out, start = Path(folder) / f"{engine}_{precision}", time.perf_counter()
            test.main([*options, "--engine", engine, "--precision", precision, "--output-dir", str(out)])
            seconds, reference = time.perf_counter() - start, Path(folder) / "torch_32-true"
            dices, change = pooled_dices(reference, out), largest_change(reference, out)
            print(f"{engine:8s} {precision:10s} {seconds:6.0f} s  smallest Dice {min(dices.values()):.4f}, "
                  f"{sum(dice < 0.998 for dice in dices.values())} of {len(dices)} below 0.998; "
                  f"largest change of a mean {change:.4f}", flush=True)


def pooled_dices(reference, out):
    """{label: Dice of the voxels of two folders of predictions, all cases together}"""
    both, sizes = np.zeros(256), np.zeros(256)
    for path in sorted(path for path in (reference / "predictions").iterdir() if path.suffix in (".gz", ".nrrd")):
        one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "predictions" / path.name)))
                      for folder in (reference, out))
        both += np.bincount(one[one == other], minlength=256)
        sizes += np.bincount(one.ravel(), minlength=256) + np.bincount(other.ravel(), minlength=256)
    return {label: 2 * both[label] / sizes[label] for label in np.flatnonzero(sizes) if label}


def largest_change(reference, out):
    """Of the Dice scores in two summaries."""
    first, second = (dict(dices_in(json.loads((folder / "summary.json").read_text()))) for folder in (reference, out))
    return max(abs(first[place] - second[place]) for place in first)


def dices_in(part, place=""):
    """(place, value) of every finite Dice, or mean of Dice, of a summary."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        if isinstance(value, (dict, list)):
            yield from dices_in(value, f"{place}/{key}")
        elif isinstance(value, float) and np.isfinite(value) and ("dice" in key or ("dice" in place and key == "mean")):
            yield f"{place}/{key}", value


if __name__ == "__main__":
    main()
