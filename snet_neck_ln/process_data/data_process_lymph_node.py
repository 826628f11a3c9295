"""Cases to slices: <patient>/<CT and mask> -> <prepared>/<patient>/{images/<k>.jpg, files/<k>.npz} and slices.csv.

Instead of CT and mask a patient's folder may hold a DICOM CT and its RTSTRUCT, at any depth and under any names.
The same command continues after a kill at any moment: finished patients are kept, others made again.
Exit code 1 if a patient had to be skipped.
"""
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import SimpleITK as sitk

from shared_data.cohort import (all_skipped, check_apart, check_case_name, each_case, fingerprint, say_skipped,
                                subfolders)
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, whole_folder, write_json, write_table
from shared_data.named_types import Row
from shared_data.rois import NODES, masks_of, read_rois
from shared_data.settings import build, given_options, keep_config, names_of
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import SUFFIXES, check_same_grid, geometry, image_from, read_ct, read_mask, to_lps
from snet_neck_ln import slices
from snet_neck_ln.config import STEPS, Config, Prepare, Slices
from snet_neck_ln.slices import to_8bit, to_16bit, window

RESERVED = ("folds", "config.json", "slices.csv")  # names of what lies beside the patients' folders


def main(argv: Sequence[str] | None = None) -> int:
    config = build(Config, given_options(Prepare, argv, __doc__, STEPS))
    read_rois(config.rois, NODES)  # raises for a bad file before any case is read
    folders = patient_folders(config.data_dir)
    check_apart(config.data_dir, config.prepared_dir)
    with only_run_in(config.prepared_dir, ""):
        keep_config(config, config.prepared_dir / "config.json", names_of(Slices), {"STEPS": slices.STEPS}, Prepare)
        return prepare_cohort(folders, config)


def prepare_cohort(folders: Sequence[Path], config: Config) -> int:
    """Prepare every patient and write the slice table; return 1 if some had to be skipped, otherwise 0."""
    skipped, rows = {}, []
    for folder, outcome in each_case(partial(prepare_patient, config=config), folders, config.workers, "patient",
                                     config.scheduler, config.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[folder.name] = outcome.reason
        else:
            rows += outcome
    replace_table(config.prepared_dir, rows)
    if not rows:
        raise all_skipped(config.data_dir, skipped)
    if not any(row["has_node"] for row in rows):
        raise InputError(f"{config.data_dir}: not one mask holds a node. Check --mask-pattern and the masks.")
    print(f"{len(folders) - len(skipped)} patients, {len(rows)} slices, {sum(row['has_node'] for row in rows)} "
          f"with a node: {config.prepared_dir}")
    return say_skipped(skipped)


def replace_table(prepared_dir: Path, rows: Sequence[Row]) -> None:
    """Write slices.csv; if it has changed, remove the folds made from the old one."""
    table = prepared_dir / "slices.csv"
    before = table.read_bytes() if table.exists() else b""
    write_table(table, rows, ("patient", "slice", "path", "has_node"))
    if table.read_bytes() != before:
        shutil.rmtree(prepared_dir / "folds", ignore_errors=True)


def patient_folders(data_dir: Path) -> list[Path]:
    """The patients' folders in natural order."""
    names = subfolders(data_dir)
    if not names:
        raise InputError(f"{data_dir}: no patient folders in it. Expected <patient>/<CT and mask>.")
    return [data_dir / name for name in names]


def prepare_patient(folder: Path, config: Config) -> list[Row] | Skipped:
    """Write a patient's slices, unless that is done; return the rows of the slice table, or `Skipped`."""
    case = config.prepared_dir / folder.name
    try:
        ct_path, mask_path, series = find_pair(folder, config)
        sources = [[path.name, fingerprint(path)] for path in (ct_path, mask_path, series and config.rois) if path]
        done = is_prepared(case, sources)
        if not done:
            ct = read_ct(ct_path, series)
            if series:
                mask = masks_of(mask_path, ct, NODES, NODES | read_rois(config.rois, NODES))[0]["node"]
            else:
                mask = read_mask(mask_path, any_label=config.merge_labels)
            scan, ct, mask = geometry(ct), to_lps(ct), to_lps(mask)
            check_same_grid(ct, mask, mask_path)
    except (InputError, OSError) as error:
        return Skipped(one_line(error))
    if not done:
        write_case(case, ct, mask, {"patient": folder.name, "sources": sources, "scan": scan}, config)
    return [{"patient": folder.name, "slice": k, "path": f"{folder.name}/files/{k}.npz", "has_node": int(node)}
            for k, node in enumerate(read_case(case)["has_node"])]


def is_prepared(case: Path, sources: Sequence[object]) -> bool:
    """Whether the patient's folder is complete and was made from the same files."""
    try:
        return read_case(case)["sources"] == sources
    except (InputError, OSError):
        return False


def read_case(case: Path) -> dict[str, Any]:
    """The content of a prepared patient's case.json. Raises InputError when it is damaged."""
    facts = read_json(case / "case.json")
    try:
        grids = facts["scan"], facts["grid"]  # the CT's own, and in LPS
        own_size, lps_size = (grid["size_xyz"] for grid in grids)
        images = [image_from(np.zeros((1, 1, 1), np.uint8), grid) for grid in grids]
        usable = (facts["sources"] and len(facts["has_node"]) == lps_size[2] and sorted(own_size) == sorted(lps_size)
                  and all(min(image.GetSpacing()) > 0 for image in images)
                  and all(type(node) is bool for node in facts["has_node"]))
    except Exception:  # a damaged file may hold anything
        usable = False
    if not usable:
        raise InputError(f"{case / 'case.json'}: damaged. Delete {case} and run data_process_lymph_node.py again.")
    return facts


def find_pair(folder: Path, config: Config) -> tuple[Path, Path, str | None]:
    """(CT, mask, None): a patient's one file (or DICOM folder) for each pattern, a name that fits both being a mask;
    or, without a mask, (patient's folder, RTSTRUCT, UID of its CT series). Raises InputError."""
    check_case_name(folder, RESERVED)
    entries = [path for path in sorted(folder.iterdir()) if path.name[0] != "."
               and (path.is_dir() or path.name.lower().endswith(SUFFIXES))]
    masks = [path for path in entries if _fits(path, config.mask_pattern)]
    if not masks and (drawn := find_rtstruct(folder)):
        return folder, *drawn
    images = [path for path in entries if _fits(path, config.image_pattern) and path not in masks]
    for what, found, pattern in (("CT", images, config.image_pattern), ("mask", masks, config.mask_pattern)):
        if len(found) != 1:
            names = f" ({', '.join(path.name for path in found)})" if found else ""
            raise InputError(f"{folder}: {len(found)} candidates for the {what}{names}, pattern {pattern!r}. "
                             "One is needed.")
    return images[0], masks[0], None


def _fits(path, pattern):
    return fnmatch(path.name.lower(), pattern.lower())


def write_case(case: Path, ct: sitk.Image, mask: sitk.Image, facts: dict[str, Any], config: Config) -> None:
    """Write a patient's slices: an 8-bit picture to look at, and the 16-bit image with its mask for training."""
    hu_zyx, mask_zyx = sitk.GetArrayViewFromImage(ct), sitk.GetArrayViewFromImage(mask)
    with whole_folder(case) as written:
        (written / "images").mkdir()
        (written / "files").mkdir()
        for k, (hu, node) in enumerate(zip(hu_zyx, mask_zyx)):
            unit = window(hu, config.window_center_hu, config.window_width_hu)
            picture = cv2.imencode(".jpg", to_8bit(unit))[1]
            (written / "images" / f"{k}.jpg").write_bytes(picture.tobytes())
            np.savez_compressed(written / "files" / f"{k}.npz", image=to_16bit(unit), mask=node)
        write_json(written / "case.json",
                   {**facts, "grid": geometry(ct), "has_node": [bool(node.any()) for node in mask_zyx]})


if __name__ == "__main__":
    run_script(main)
