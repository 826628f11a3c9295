"""Cases to slices: <patient>/<CT and mask> -> <prepared>/<patient>/{images/<k>.jpg, files/<k>.npz} and slices.csv.

Stopped at any moment, the same command goes on: finished patients stay, half-written ones are made again.
Exit code 1 when a patient had to be skipped.
"""
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatch
from functools import partial as bind
from multiprocessing import get_context

import cv2
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from shared_data.errors import InputError, run_script
from shared_data.files import clear_partials, read_json, whole_folder, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.settings import keep_config, parse_options
from shared_data.volume import SUFFIXES, check_same_grid, geometry, read_ct, read_mask, to_lps
from snet_neck_ln.config import Config
from snet_neck_ln.slices import to_8bit, to_16bit, window

# Settings that decide what the slices look like; the others may change between runs over one folder.
SLICE_SETTINGS = ("window_center_hu", "window_width_hu", "merge_labels")


def main(argv=None):
    config = parse_options(Config, argv, __doc__)
    folders = patient_folders(config.data_dir)
    config.prepared_dir.mkdir(parents=True, exist_ok=True)
    clear_partials(config.prepared_dir)
    keep_config(config, config.prepared_dir / "config.json",
                free=[name for name in vars(config) if name not in SLICE_SETTINGS])
    skipped, rows = {}, []
    for folder, outcome in prepare_all(folders, config):
        if isinstance(outcome, str):
            skipped[folder.name] = outcome
        else:
            rows += outcome
    if not rows:
        raise InputError(f"{config.data_dir}: no patient could be prepared. "
                         + " | ".join(f"{patient}: {reason}" for patient, reason in skipped.items()))
    if not any(row["has_node"] for row in rows):
        raise InputError(f"{config.data_dir}: not one mask holds a node. Check --mask-pattern and the masks.")
    write_table(config.prepared_dir / "slices.csv", rows)
    print(f"{len(folders) - len(skipped)} patients, {len(rows)} slices, {sum(row['has_node'] for row in rows)} "
          f"with a node: {config.prepared_dir}")
    for patient, reason in skipped.items():
        print(f"skipped {patient}: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def patient_folders(data_dir):
    """The patients' folders in natural order."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder. Give the cohort with --data-dir.")
    names = natural_sort(path.name for path in data_dir.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise InputError(f"{data_dir}: no patient folders in it. Expected <patient>/<CT and mask>.")
    return [data_dir / name for name in names]


def prepare_all(folders, config):
    """Yield (folder, its rows of the slice table, or why it was skipped), in order."""
    work = bind(prepare_patient, config=config)
    bar = bind(tqdm, total=len(folders), unit="patient", disable=None)
    if config.workers == 0:
        yield from zip(folders, bar(map(work, folders)))
        return
    with ProcessPoolExecutor(config.workers, get_context("spawn"), _one_thread) as pool:
        try:
            yield from zip(folders, bar(pool.map(work, folders)))
        except BrokenProcessPool as error:
            raise InputError("a worker process was ended, for want of memory most likely. Use fewer --workers."
                             ) from error


def _one_thread():
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def prepare_patient(folder, config):
    """Rows of the slice table, the slices written; or, as a string, why the patient has to be skipped."""
    try:
        ct_path, mask_path = find_pair(folder, config)
        case = config.prepared_dir / folder.name
        sources = {path.name: _fingerprint(path) for path in (ct_path, mask_path)}
        if not (case / "case.json").exists() or read_json(case / "case.json")["sources"] != sources:
            ct = read_ct(ct_path)
            mask = read_mask(mask_path, any_label=config.merge_labels)
            scan_grid, ct, mask = geometry(ct), to_lps(ct), to_lps(mask)
            check_same_grid(ct, mask, mask_path)
            write_case(case, ct, mask, {"patient": folder.name, "sources": sources, "scan": scan_grid}, config)
        has_node = read_json(case / "case.json")["has_node"]
    except InputError as error:
        return str(error)
    return [{"patient": folder.name, "slice": k, "path": f"{folder.name}/files/{k}.npz", "has_node": int(node)}
            for k, node in enumerate(has_node)]


def find_pair(folder, config):
    """(CT, mask) of a patient: exactly one file (or DICOM folder) each. A name that fits both patterns is a mask."""
    entries = [path for path in sorted(folder.iterdir()) if path.name[0] != "."
               and (path.is_dir() or path.name.lower().endswith(SUFFIXES))]
    masks = [path for path in entries if _fits(path, config.mask_pattern)]
    images = [path for path in entries if _fits(path, config.image_pattern) and path not in masks]
    for what, found, pattern in (("CT", images, config.image_pattern), ("mask", masks, config.mask_pattern)):
        if len(found) != 1:
            names = f" ({', '.join(path.name for path in found)})" if found else ""
            raise InputError(f"{folder}: {len(found)} candidates for the {what}{names}, pattern {pattern!r}. "
                             "One is needed.")
    return images[0], masks[0]


def _fits(path, pattern):
    return fnmatch(path.name.lower(), pattern.lower())


def _fingerprint(path):
    """Size and time of a file (or of all files of a folder): a changed source is prepared again."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [[file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def write_case(case, ct, mask, facts, config):
    """Write one patient's slices: 8-bit picture for people, 16-bit image with its mask for training."""
    hu_zyx, mask_zyx = sitk.GetArrayViewFromImage(ct), sitk.GetArrayViewFromImage(mask)
    with whole_folder(case) as partial:
        (partial / "images").mkdir()
        (partial / "files").mkdir()
        for k, (hu, node) in enumerate(zip(hu_zyx, mask_zyx)):
            unit = window(hu, config.window_center_hu, config.window_width_hu)
            picture = cv2.imencode(".jpg", to_8bit(unit))[1]
            (partial / "images" / f"{k}.jpg").write_bytes(picture)
            np.savez_compressed(partial / "files" / f"{k}.npz", image=to_16bit(unit), mask=node)
        write_json(partial / "case.json",
                   {**facts, "grid": geometry(ct), "has_node": [bool(node.any()) for node in mask_zyx]})


if __name__ == "__main__":
    run_script(main)
