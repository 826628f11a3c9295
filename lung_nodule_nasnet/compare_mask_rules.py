"""Which mask rule comes closer to the readers? python compare_mask_rules.py --data-dir /my/LIDC-IDRI

For each nodule of the XML read-outs: its consensus mask against what each rule draws from place and diameter alone, on
all slices the sphere reaches. Prints the mean Dice by diameter; --output writes the nodules as a table.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.nodules import disc, draw_nodule
from lung_nodule_nasnet.readouts import consensus_nodules, find_readouts, read_readout
from lung_nodule_nasnet.scans import Scan, Volume, files_below, find_scans, read_scan
from shared_data.cohort import each_case, say_skipped
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import write_table
from shared_data.named_types import Labels, Row
from shared_data.settings import Cluster, at_least, parse_options, require

DIAMETERS_MM = {"all": (0, np.inf), "< 6 mm": (0, 6), "6-10 mm": (6, 10), "10-20 mm": (10, 20),
                ">= 20 mm": (20, np.inf)}
RULES = ("edge", "authors", "sphere")


@dataclass(frozen=True, kw_only=True)
class Options(Cluster):
    data_dir: Path  # LIDC-IDRI with its XML read-outs
    output: Path | None = None  # table of the nodules
    consensus: float = 0.5  # share of a nodule's readers that makes a voxel nodule
    workers: int = 2  # processes

    def __post_init__(self) -> None:
        at_least(self, 0, "workers", "worker_memory_gb")
        require(self, "consensus", 0 < self.consensus <= 1, "must lie above 0, up to 1")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    scans, skipped = find_scans(options.data_dir, options.workers)
    readouts = find_readouts(files_below(options.data_dir))
    scans = [scan for scan in scans if scan.uid in readouts]
    if not scans:
        raise InputError(f"{options.data_dir}: no scan with a read-out (XML).")
    rows = []
    work = partial(compare, readouts=readouts, share=options.consensus)
    for scan, outcome in each_case(work, scans, options.workers, "scan", options.scheduler,
                                   options.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[scan.uid] = outcome.reason
        else:
            rows += outcome
    if options.output:
        write_table(options.output, rows)
    print("diameter   nodules  " + "  ".join(f"{rule:>8s}" for rule in RULES))
    for name, (low, high) in DIAMETERS_MM.items():
        chosen = [row for row in rows if low <= row["diameter_mm"] < high]
        means = "  ".join(f"{np.mean([row[rule] for row in chosen]):8.3f}" for rule in RULES) if chosen else ""
        print(f"{name:10s} {len(chosen):7d}  {means}")
    return say_skipped(skipped)


def compare(scan: Scan, readouts: Mapping[str, Path], share: float) -> list[Row] | Skipped:
    """[{"seriesuid", "diameter_mm", "readers", Dice of each rule}] of a scan's nodules; or `Skipped`."""
    path = readouts[scan.uid]
    try:
        volume = read_scan(scan)
        nodules, _ = consensus_nodules(read_readout(path), volume, share, 1, path)
    except (InputError, OSError) as error:
        return Skipped(one_line(error))
    rows, spacing = [], volume.image.GetSpacing()
    for nodule in nodules:
        centre = tuple(float(axis.mean()) for axis in np.unravel_index(nodule["voxels"], volume.hu_zyx.shape))
        diameter = (6 * len(nodule["voxels"]) * np.prod(spacing) / np.pi) ** (1 / 3)
        drawn = {rule: draw_nodule(volume, centre, diameter, rule)["voxels"] for rule in RULES[:2]}
        drawn["sphere"] = sphere(volume, centre, diameter)
        rows.append({"seriesuid": scan.uid, "diameter_mm": float(diameter), "readers": nodule["readers"],
                     **{rule: dice(nodule["voxels"], voxels) for rule, voxels in drawn.items()}})
    return rows


def sphere(volume: Volume, centre_zyx: Sequence[float], diameter_mm: float) -> Labels:
    """Flat indices of the ball, for comparison."""
    (depth, height, width), spacing = volume.hu_zyx.shape, volume.image.GetSpacing()
    flat = []
    for k in range(depth):
        rest = (diameter_mm / 2) ** 2 - ((k - centre_zyx[0]) * spacing[2]) ** 2
        if rest >= 0:
            plane = disc((height, width), centre_zyx[1:], np.sqrt(rest) / spacing[0])
            flat.append(k * height * width + np.flatnonzero(plane))
    return np.concatenate(flat)


def dice(reference: Labels, drawn: Labels) -> float:
    """Of flat indices."""
    return 2 * len(np.intersect1d(reference, drawn)) / (len(reference) + len(drawn))


if __name__ == "__main__":
    run_script(main)
