"""Scans to slices: LIDC-IDRI (DICOM with XML or list3.2.csv) or LUNA16 -> <prepared>/<series uid>/slices.npz.

    python preprocess.py --data-dir /my/LIDC-IDRI

Of each scan the slices with a nodule and a share of the others: lungs only, with their nodule masks. Beside them
case.json, and over all scans nodules.csv (mm, in the form of LUNA16's annotations.csv). Stopped at any moment, the same
command goes on. Exit code 1 when a scan had to be skipped.
"""
import zipfile
import zlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.config import STEPS, Config, Prepare, Slices
from lung_nodule_nasnet.lungs import CONSTANTS, CROP, extract_lungs, network_mask, network_spacing, resized, to_matrix
from lung_nodule_nasnet.nodules import CONSTANTS as NODULE_CONSTANTS, Nodule
from lung_nodule_nasnet.nodules import (LUNA_COLUMNS, describe, list_nodules, luna_nodules, of_the_list,
                                        read_luna_annotations, read_nodule_list)
from lung_nodule_nasnet.readouts import consensus_nodules, find_readouts, read_readout
from lung_nodule_nasnet.scans import Scan, Volume, files_below, find_scans, read_scan
from shared_data.cohort import all_skipped, check_apart, each_case, fingerprint, say_skipped
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, whole_folder, write_json, write_table
from shared_data.named_types import Array, Floats, Labels
from shared_data.settings import build, given_options, keep_config, names_of
from shared_data.volume import to_lps

Source = dict[str, Any]  # what describes the nodules, of `annotation_source`


def main(argv: Sequence[str] | None = None) -> int:
    config = build(Config, given_options(Prepare, argv, __doc__, STEPS))
    if config.window:
        raise InputError("--window: only for crops around nodules, not for whole scans. Leave it out.")
    check_apart(config.data_dir, config.prepared_dir)
    scans, skipped = find_scans(config.data_dir, config.workers)
    source = annotation_source(config, scans)
    with only_run_in(config.prepared_dir, ""):
        keep_config(config, config.prepared_dir / "config.json", (*names_of(Slices), "seed"),
                    CONSTANTS | NODULE_CONSTANTS, Prepare)
        return prepare_cohort(scans, skipped, source, config)


def prepare_cohort(scans: Sequence[Scan], skipped: dict[str, str], source: Source, config: Config) -> int:
    """Prepare every scan, write scans.csv and nodules.csv; 1 when some had to be skipped."""
    work = partial(prepare_scan, source=source, config=config)
    rows, nodules = [], []
    for scan, outcome in each_case(work, scans, config.workers, "scan", config.scheduler,
                                   config.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[f"{scan.patient} {scan.uid}"] = outcome.reason
            continue
        rows.append({"seriesuid": scan.uid, "patient": scan.patient, "slices": len(outcome["slices"]),
                     "with_nodule": sum(outcome["has_nodule"]), "nodules": len(outcome["nodules"]),
                     "nodule_pixels": outcome["nodule_pixels"], "outside_lungs": outcome["outside_lungs"]})
        nodules += [{"seriesuid": scan.uid, **nodule} for nodule in outcome["nodules"]]
    if not rows:
        raise all_skipped(config.data_dir, skipped)
    write_table(config.prepared_dir / "scans.csv", rows)
    write_table(config.prepared_dir / "nodules.csv", nodules, LUNA_COLUMNS)
    total = {name: sum(row[name] for row in rows) for name in rows[0] if name not in ("seriesuid", "patient")}
    if not total["with_nodule"]:
        raise InputError(f"{config.data_dir}: not one slice with a nodule ({source['kind']}). Check the annotations.")
    outside = 100 * total["outside_lungs"] / max(1, total["nodule_pixels"])
    print(f"{len(rows)} scans, {total['nodules']} nodules, {total['slices']} slices, {total['with_nodule']} with a "
          f"nodule; {outside:.1f} % of the nodules' pixels lie outside the lung masks: {config.prepared_dir}")
    return say_skipped(skipped)


def annotation_source(config: Config, scans: Sequence[Scan]) -> Source:
    """{"kind": "xml", "list" or "luna16", and what it reads}: plain, for the workers."""
    table = config.luna_annotations or config.data_dir / "annotations.csv"
    listed = config.nodule_list or config.data_dir / "list3.2.csv"
    readouts = find_readouts(files_below(config.data_dir)) if config.annotations in ("auto", "xml") else {}
    kind = config.annotations
    if kind == "auto":
        kind = "luna16" if not scans[0].is_dicom else "xml" if readouts or not listed.exists() else "list"
    if kind == "xml":
        if not readouts:
            raise InputError(f"{config.data_dir}: no read-outs (XML with LidcReadMessage), no {listed.name}. Unpack "
                             "them there, or give --nodule-list.")
        return {"kind": kind, "readouts": readouts}
    if kind == "list":
        patients = [scan.patient for scan in scans]
        return {"kind": kind, "path": listed, "rows": read_nodule_list(listed),
                "series": {patient: patients.count(patient) for patient in patients}}
    return {"kind": kind, "path": table, "rows": read_luna_annotations(table)}


def prepare_scan(scan: Scan, source: Source, config: Config) -> dict[str, Any] | Skipped:
    """case.json of the scan, its slices written; or `Skipped`."""
    case = config.prepared_dir / scan.uid
    try:
        facts = finished(case)
        sources = [fingerprint(path) for path in annotation_files(scan, source)]
        if facts is None or facts["sources"] != sources:
            volume = read_scan(scan)
            nodules, unsure = draw_nodules(scan, volume, source, config)
            facts = {"seriesuid": scan.uid, "patient": scan.patient, "sources": sources}
            write_case(case, facts, volume, nodules, unsure, config)
        return read_case(case)
    except (InputError, OSError) as error:
        return Skipped(one_line(error))


def annotation_files(scan: Scan, source: Source) -> list[Path]:
    annotations = source["readouts"].get(scan.uid) if source["kind"] == "xml" else source["path"]
    return [*sorted(scan.files), *([annotations] if annotations else [])]


def draw_nodules(scan: Scan, volume: Volume, source: Source, config: Config) -> tuple[list[Nodule], set[int]]:
    """(nodules, unsure slices) of a scan by whatever describes them."""
    if source["kind"] == "xml":
        path = source["readouts"].get(scan.uid)
        if path is None:
            beside = sorted({xml.name for file in scan.files for xml in file.parent.glob("*.xml")})
            others = f" ({', '.join(beside)} beside it belongs to another)" if beside else ""
            raise InputError(f"{scan.files[0].parent}: no read-out for series {scan.uid}{others}. Fetch its XML.")
        return consensus_nodules(read_readout(path), volume, config.consensus, config.min_readers, path)
    if source["kind"] == "list":
        number = "".join(filter(str.isdigit, scan.patient[-4:]))
        rows = source["rows"].get(int(number) if number else -1, [])
        rows = of_the_list(rows, scan, source["series"][scan.patient], source["path"])
        return list_nodules(rows, volume, config.list_convention, config.mask_rule, source["path"])
    return luna_nodules(source["rows"].get(scan.uid, []), volume, config.mask_rule, source["path"])


def write_case(case: Path, facts: dict[str, Any], volume: Volume, nodules: Sequence[Nodule], unsure: Collection[int],
               config: Config) -> None:
    """Choose the slices of a scan and write them: lungs and nodule mask on the network's grid, axial, LPS."""
    labels = np.zeros(volume.hu_zyx.shape, np.uint8)
    for nodule in nodules:
        labels.ravel()[nodule["voxels"]] = 1
    doubtful = np.zeros_like(labels)
    doubtful[[k for k in unsure if 0 <= k < len(labels)]] = 1
    hu, labels, doubtful = (oriented(array, volume.image) for array in (volume.hu_zyx, labels, doubtful))
    with_nodule = np.flatnonzero(labels.any((1, 2)))
    free = np.flatnonzero(~labels.any((1, 2)) & ~doubtful.any((1, 2)))
    rng = np.random.default_rng([config.seed, zlib.crc32(facts["seriesuid"].encode())])
    wanted = max(config.min_negatives, round(len(with_nodule) * config.negatives_per_positive))
    chosen = np.sort(np.concatenate([with_nodule, rng.choice(free, min(wanted, len(free)), replace=False)]))
    if not len(chosen):
        raise InputError(f"{case.name}: no slice to use: none with a nodule, and {min(wanted, len(free))} of the "
                         f"{len(free)} surely without. Raise --min-negatives, or leave the scan out.")
    images, masks, outside = [], [], 0
    for k in chosen:
        lungs = extract_lungs(to_matrix(hu[k]))
        images.append(resized(lungs.image[CROP, CROP], config.size))
        masks.append(network_mask(labels[k] > 0, config.size))
        outside += int((masks[-1] & (resized(lungs.mask[CROP, CROP].astype(np.float32), config.size) < 0.5)).sum())
    with whole_folder(case) as written:
        np.savez_compressed(written / "slices.npz", image=np.stack(images), mask=np.stack(masks).astype(np.uint8))
        write_json(written / "case.json", {
            **facts, "spacing_zyx": network_spacing(to_lps(volume.image).GetSpacing()[::-1], hu.shape[1:], config.size),
            "slices": chosen.tolist(), "has_nodule": [bool(mask.any()) for mask in masks],
            "nodules": [describe(nodule, volume.image) for nodule in nodules],
            "nodule_pixels": int(sum(mask.sum() for mask in masks)), "outside_lungs": outside})


def oriented(array: Array, image: sitk.Image) -> Array:
    """(z, y, x) in LPS order of an array on the grid of `image`."""
    like = sitk.GetImageFromArray(array)
    like.CopyInformation(image)
    return sitk.GetArrayFromImage(to_lps(like))


def finished(case: Path) -> dict[str, Any] | None:
    """case.json of a scan written whole, else None."""
    try:
        return read_case(case)
    except (InputError, OSError):
        return None


def read_case(case: Path) -> dict[str, Any]:
    """case.json of a prepared scan. Raises InputError when it does not say what it should."""
    facts = read_json(Path(case) / "case.json")
    try:
        usable = (facts["sources"] and isinstance(facts["patient"], str) and isinstance(facts["nodules"], list)
                  and len(facts["slices"]) == len(facts["has_nodule"]) and facts["outside_lungs"] >= 0)
    except (KeyError, TypeError):
        usable = False
    if not usable:
        raise InputError(f"{case}: its case.json is damaged. Delete the folder and run preprocess.py again.")
    return facts


def read_slices_of(case: Path) -> tuple[Floats, Labels]:
    """(images (n, size, size) float32, masks uint8) of a prepared scan."""
    path = Path(case) / "slices.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["image"], arrays["mask"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: damaged. Delete the folder and run preprocess.py again.") from error


if __name__ == "__main__":
    run_script(main)
