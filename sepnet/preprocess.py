"""Cases to training volumes: python preprocess.py --data-dir /my/HaN_OAR [--split 0.8]

In: <patient>/data.nii.gz and label.nii.gz, flat (as StructSeg is downloaded; split here) or below train/, valid/ and
optionally test/. Instead of both files a patient may have a DICOM CT and its RTSTRUCT, under any names. Or, with
--layout openkbp, a clone of OpenKBP.
Out: <prepared>/{train,valid,test}/<patient>/ with multi_thresh_<1..3>.nii.gz and label.nii.gz (cropped, float32 and
uint8, true geometry), reference.nii.gz (labels on the whole CT), case.json; and cases.csv.
The same command continues after a kill at any moment. Exit code 1 if a case had to be skipped.
"""
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from sepnet.config import CONTROL_POINTS, Config, Prepare, Volumes, given_settings
from sepnet.volumes import cropped, network_grid, transformed
from shared_data import openkbp
from shared_data.cohort import (all_skipped, check_apart, check_case_name, each_case, fingerprint, printable,
                                say_skipped, subfolders)
from shared_data.colour_tables import write_colour_tables
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, whole_folder, write_json, write_table
from shared_data.folds import hold_out, natural_sort
from shared_data.named_types import Row
from shared_data.rois import labels_of, read_rois
from shared_data.settings import build, keep_config, names_of
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import (SUFFIXES, check_same_grid, geometry, image_from, read_ct, read_mask, to_lps,
                                write_volume)

PARTS = ("train", "valid", "test")
NEEDED = PARTS[:2]


def main(argv: Sequence[str] | None = None) -> int:
    config = build(Config, given_settings(argv, __doc__))
    cases = find_cases(config)
    read_rois(config.rois, config.organs)  # raises for a bad file before any case is read
    check_apart(config.data_dir, config.prepared_dir)
    with only_run_in(config.prepared_dir, *PARTS):
        keep_config(config, config.prepared_dir / "config.json", names_of(Volumes),
                    openkbp.CONSTANTS if config.layout == "openkbp" else None, Prepare)
        return prepare_cohort(cases, config)


def prepare_cohort(cases: Sequence[tuple[str, Path]], config: Config) -> int:
    """Prepare every case and write the table; return 1 if some had to be skipped, otherwise 0."""
    skipped, rows = {}, []
    for (part, folder), outcome in each_case(partial(prepare_case, config=config), cases, config.workers, "case",
                                             config.scheduler, config.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[f"{part} {printable(folder.name)}"] = outcome.reason
        else:
            rows.append(outcome)
            if outcome["note"]:
                print(f"{printable(folder.name)}: {outcome['note']}")
    for part in NEEDED:
        if not any(row["part"] == part for row in rows):
            raise all_skipped(f"{config.data_dir}, for {part} (--split sets how many that are)", skipped)
    if not any(row["labels"] for row in rows):
        raise InputError(f"{config.data_dir}: no organ in any label map. Check the label files.")
    write_table(config.prepared_dir / "cases.csv", rows)
    write_colour_tables(dict(enumerate(config.organs, 1)), config.prepared_dir / "labels")
    present = {int(label) for row in rows for label in row["labels"].split()}
    counts = {part: sum(row["part"] == part for row in rows) for part in PARTS}
    print(", ".join(f"{count} {part}" for part, count in counts.items() if count) + f" cases: {config.prepared_dir}")
    if absent := sorted(set(range(1, config.n_classes)) - present):
        print(f"labels that never occur: {', '.join(f'{label} ({config.classes[label]})' for label in absent)}")
    return say_skipped(skipped)


def find_cases(config: Config) -> list[tuple[str, Path]]:
    """[(part, folder)] in natural order; a flat cohort is split by name, the last ones are for validation.

    Raises InputError for too few patients, and for one in two parts.
    """
    root = config.data_dir
    if config.layout == "openkbp":
        return openkbp.find_cases(root)
    patients = subfolders(root)
    if all((root / part).is_dir() for part in NEEDED):
        names = {part: subfolders(root / part) for part in PARTS if (root / part).is_dir()}
        every = [name for part in names.values() for name in part]
        repeated = {name for name in every if every.count(name) > 1}
        if repeated:
            where = " and in ".join(part for part in names if repeated & set(names[part]))
            raise InputError(f"{root}: {', '.join(natural_sort(repeated))} in {where}. Keep one of the two.")
        cases = [(part, root / part / name) for part in names for name in names[part]]
    else:
        if len(patients) < 2:
            raise InputError(f"{root}: patient folders: {len(patients)}; train and valid need one each. "
                             "Expected <patient>/data.nii.gz and label.nii.gz.")
        train, valid = hold_out(patients, 1 - config.split)
        cases = [("train", root / name) for name in train] + [("valid", root / name) for name in valid]
    return cases


def prepare_case(case: tuple[str, Path], config: Config) -> Row | Skipped:
    """Write a case's volumes, unless that is done; return its row of cases.csv, or `Skipped`."""
    part, folder = case
    target = config.prepared_dir / part / folder.name
    try:
        check_case_name(folder)
        drawn = find_drawn(folder, config)
        files = [folder] if drawn else find_files(folder, config)
        sources = {path.name: fingerprint(path) for path in (*files, drawn and config.rois) if path}
        done = is_prepared(target, sources)
        if not done:
            ct, label, notes = read_case(folder, files, drawn, config)
    except (InputError, OSError) as error:
        return Skipped(one_line(error))
    if not done:
        facts = {"patient": folder.name, "sources": sources, "scan": geometry(ct)} | ({"notes": notes} if notes else {})
        write_case(target, to_lps(ct), to_lps(label), facts, config)
    prepared = read_json(target / "case.json")
    return {"case": folder.name, "part": part, "slices": prepared["seen"]["size_xyz"][2],
            "labels": " ".join(map(str, prepared["labels"])), "note": "; ".join(prepared.get("notes", []))}


def is_prepared(target: Path, sources: dict[str, Any]) -> bool:
    """Whether the case's folder is complete and was made from the same files."""
    try:
        return read_json(target / "case.json").get("sources") == sources
    except (InputError, OSError, AttributeError):
        return False


def find_drawn(folder: Path, config: Config) -> tuple[Path, str] | None:
    """`find_rtstruct` for a patient without a label map, otherwise None."""
    return None if config.layout == "openkbp" or files_by_stem(folder, "label") else find_rtstruct(folder)


def find_files(folder: Path, config: Config) -> list[Path]:
    """The files of a case to read. Raises InputError if one is missing."""
    if config.layout == "openkbp":
        return list(openkbp.case_files(folder).values())
    return [find_file(folder, stem) for stem in ("data", "label")]


def read_case(folder: Path, files: Sequence[Path], drawn: tuple[Path, str] | None,
              config: Config) -> tuple[sitk.Image, sitk.Image, list[str]]:
    """(CT, labels on its grid, notes) of a case. Raises InputError."""
    if config.layout == "openkbp":
        ct, label, _, notes = openkbp.read_case(folder, config.organs)
        return ct, label, notes
    if drawn:
        ct, label, organs, ignored = labels_of(folder, *drawn, config.organs, read_rois(config.rois))
        missing = [name for name in config.organs if name not in organs]
        remarks = {"missing": missing, "ignored": ignored}
        return ct, label, [f"{remark} {', '.join(names)}" for remark, names in remarks.items() if names]
    ct_path, label_path = files
    ct, label = read_ct(ct_path), read_mask(label_path, foreground=range(1, config.n_classes))
    check_same_grid(to_lps(ct), to_lps(label), label_path)
    return ct, label, []


def files_by_stem(folder: Path, stem: str) -> list[Path]:
    """Files (or DICOM folders) named `stem`, in any volume format; case does not matter."""
    return [path for path in sorted(folder.iterdir())
            if path.name.lower() in {stem, *(stem + suffix for suffix in SUFFIXES)}
            and (path.is_dir() or path.name.lower() != stem)]


def find_file(folder: Path, stem: str) -> Path:
    """The only one of `files_by_stem`. Raises InputError for none or several."""
    found = files_by_stem(folder, stem)
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} files named {stem}.nii.gz (or {' '.join(SUFFIXES[1:])}). "
                         "One is needed.")
    return found[0]


def write_case(target: Path, ct: sitk.Image, label: sitk.Image, facts: dict[str, Any], config: Config) -> None:
    """Write every intensity function of a CT in LPS, its labels, and the geometry that leads back to the CT's grid."""
    resampled = network_grid(ct, config)
    hu, crop = cropped(resampled, config.crop_size, fill=-1024)
    labels, _ = cropped(network_grid(label, config, sitk.sitkNearestNeighbor, fill=0), config.crop_size)
    with whole_folder(target) as folder:
        for name in CONTROL_POINTS:
            if name != "single_window" or config.plain_window:
                write_volume(image_from(transformed(hu, config.control_points(name)), crop), folder / f"{name}.nii.gz")
        write_volume(image_from(labels, crop), folder / "label.nii.gz")
        write_volume(label, folder / "reference.nii.gz")
        write_json(folder / "case.json", {
            **facts, "lps": geometry(ct), "seen": geometry(resampled),
            "labels": [int(value) for value in np.unique(sitk.GetArrayViewFromImage(label)) if value]})


if __name__ == "__main__":
    run_script(main)
