"""Vertebrae T12, L1-L5 of every CT of a folder by TotalSegmentator: <output_dir>/<case>/vertebrae_<name>.nii.gz

    python vert_seg.py --input_dir CT/ --output_dir vertebrae/ --num_processes 4 [--batch_size N] [--fast]

Finished cases are skipped, so the same command goes on after a stop. Exit code 1 when any case failed.
"""
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial as bind
from pathlib import Path
from typing import Literal

import SimpleITK as sitk

from retroln_nnunet.config import ROOT, VERTEBRAE
from retroln_nnunet.crop import case_id
from shared_data.cohort import check_apart, check_case_name, each_case, printable
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, whole_folder, write_table
from shared_data.folds import natural_sort
from shared_data.settings import Cluster, at_least, parse_options
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import NIFTI, check_same_grid, read_ct, read_volume, write_volume

STATUSES = ("success", "skipped", "failed", "corrupted", "incomplete")
MIN_VOXELS, MAX_SPACING_MM = 10, 10.0  # authors
NAMES = [f"vertebrae_{name}.nii.gz" for name in VERTEBRAE]
# What TotalSegmentator says, in lower case, and what it means. The first that occurs counts.
CAUSES = {
    ("out of memory", "outofmemoryerror"): "out of GPU memory. Add --fast, or --device cpu.",
    ("no cuda", "cuda is not available", "found no nvidia", "torch not compiled with cuda"):
        "no GPU that TotalSegmentator can use. Add --device cpu.",
    ("connectionerror", "max retries", "urlopen", "name resolution", "proxyerror", "httperror", "timed out",
     "download"): "its weights are not on this machine and could not be downloaded. Run totalseg_download_weights "
                  "with network access, or copy ~/.totalsegmentator from another machine.",
    ("license",): "it asks for a licence. The vertebrae of the task 'total' need none; update TotalSegmentator.",
}


class ToolFailed(Exception):
    """TotalSegmentator ended with an error; the message is the reason."""


@dataclass(frozen=True)
class Options(Cluster):
    input_dir: Path = ROOT / "data" / "raw" / "retroln_nnunet" / "CT"  # folder of the CTs
    output_dir: Path = ROOT / "data" / "raw" / "retroln_nnunet" / "vertebrae"  # a folder for each case comes here
    file_pattern: str = "*_0000.nii.gz"  # names of the CTs in input_dir
    num_processes: int = 1  # cases at a time
    batch_size: int = 0  # number of CTs to take; 0: all
    fast: bool = False  # TotalSegmentator's 3 mm model: less memory and time
    device: Literal["gpu", "cpu"] = "gpu"  # TotalSegmentator falls back to the CPU where there is no GPU

    def __post_init__(self) -> None:
        at_least(self, 1, "num_processes")
        at_least(self, 0, "batch_size", "worker_memory_gb")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    program = find_program()
    cts = find_cts(options)
    check_apart(options.input_dir, options.output_dir)
    with only_run_in(options.output_dir, ""):
        return segment_cohort(cts, program, options)


def segment_cohort(cts: Sequence[Path], program: str, options: Options) -> int:
    """Segment every CT and write summary.csv; 1 when some failed."""
    rows = []
    for path, outcome in each_case(bind(segment, program=program, options=options), cts,
                                   options.num_processes if options.num_processes > 1 else 0, "case",
                                   options.scheduler, options.worker_memory_gb):
        status, reason = ("failed", outcome.reason) if isinstance(outcome, Skipped) else outcome
        rows.append({"case": printable(case_id(path)), "status": status, "reason": reason})
    write_table(options.output_dir / "summary.csv", rows)
    counts = Counter(row["status"] for row in rows)
    print("  ".join(f"{status} {counts[status]}" for status in STATUSES))
    for row in rows:
        if row["reason"]:
            print(f"{row['status']} {row['case']}: {row['reason']}", file=sys.stderr)
    return 0 if counts["success"] + counts["skipped"] == len(rows) else 1


def find_program() -> str:
    """TotalSegmentator on the PATH, or beside this Python."""
    program = shutil.which("TotalSegmentator") or shutil.which("TotalSegmentator", path=Path(sys.executable).parent)
    if not program:
        raise InputError("TotalSegmentator is not installed. pip install -r requirements.txt, or give crop.py "
                         "vertebrae from another tool (--vertebra-labels).")
    return program


def find_cts(options: Options) -> list[Path]:
    """The CTs in natural order, cut to the batch; raises InputError when there is none, or two of a case."""
    if not options.input_dir.is_dir():
        raise InputError(f"{options.input_dir}: no such folder. Give the CTs with --input-dir.")
    names = [path.name for path in options.input_dir.iterdir()
             if fnmatch(path.name, options.file_pattern) and path.name[0] != "."]
    if not names:
        raise InputError(f"{options.input_dir}: no file fits {options.file_pattern!r}. Give another --file-pattern.")
    cts = [options.input_dir / name for name in natural_sort(names)]
    twice = [case for case, count in Counter(map(case_id, cts)).items() if count > 1]
    if twice:
        raise InputError(f"{options.input_dir}: several CTs of case {twice[0]}. Narrow --file-pattern.")
    return cts[:options.batch_size or None]


def segment(path: Path, program: str, options: Options) -> tuple[str, str]:
    """(status, reason) of one CT."""
    folder = options.output_dir / case_id(path)
    try:
        check_case_name(Path(case_id(path)), ("summary.csv",))
    except InputError as error:
        return "failed", f"{printable(str(path.parent))}: {error}"
    try:
        if check_outputs(folder) is None:
            return "skipped", ""
    except InputError:
        pass  # a damaged result is made again
    try:
        rtstruct = find_rtstruct(path) if path.is_dir() else None
        ct = read_ct(path, rtstruct and rtstruct[1])
        if min(ct.GetSize()) < MIN_VOXELS or max(ct.GetSpacing()) > MAX_SPACING_MM:
            return "corrupted", (f"{path}: size {ct.GetSize()}, spacing {ct.GetSpacing()} mm; at least {MIN_VOXELS} "
                                 f"voxels and at most {MAX_SPACING_MM:g} mm are needed.")
        with whole_folder(folder) as partial:
            source = path
            if not path.name.lower().endswith(NIFTI):  # TotalSegmentator reads no other format
                source = partial / "ct.nii.gz"
                write_volume(ct, source)
            run(program, source, partial, options)
            missing = check_outputs(partial, ct)
            (partial / "ct.nii.gz").unlink(missing_ok=True)
    except InputError as error:
        return "corrupted", str(error)
    except (ToolFailed, OSError) as error:
        return "failed", one_line(error)
    return ("incomplete", f"{folder}: {missing}") if missing else ("success", "")


def run(program: str, ct_path: Path, folder: Path, options: Options) -> None:
    """Run TotalSegmentator, one file per vertebra. Raises ToolFailed."""
    setpriv = shutil.which("setpriv")  # with it TotalSegmentator ends when this process does, even by a kill
    command = [*([setpriv, "--pdeathsig", "KILL"] if setpriv else []), program, "-i", str(ct_path), "-o", str(folder),
               "--device", options.device, "--roi_subset", *(f"vertebrae_{name}" for name in VERTEBRAE),
               *(["--fast"] if options.fast else [])]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                          env={**os.environ, "TOTALSEG_DISABLE_USAGE_STATS": "1"})
    if done.returncode == 0:
        return
    said = (done.stderr + done.stdout).lower()
    cause = next((cause for words, cause in CAUSES.items() if any(word in said for word in words)), None)
    words = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()] or ["no word"]
    raise ToolFailed(f"TotalSegmentator: {cause or f'exit code {done.returncode}, {words[-1]}'}")


def check_outputs(folder: Path, ct: sitk.Image | None = None) -> str | None:
    """None when all vertebrae are there, readable and on the CT's grid, else which files are missing.

    Raises InputError for a file that cannot be read or lies on another grid.
    """
    missing = [name for name in NAMES if not (folder / name).is_file()]
    for name in NAMES:
        if name not in missing:
            mask = read_volume(folder / name)
            check_same_grid(ct or mask, mask, folder / name)
    return f"{', '.join(missing)} missing" if missing else None


if __name__ == "__main__":
    run_script(main)
