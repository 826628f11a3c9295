"""Cases to resampled CTs and label maps: python data_preprocess/data_preprocess.py --data-dir /my/PDDCA

In: <case>/img.nrrd and <case>/structures/<organ>.nrrd (or another format; img may be a DICOM folder). Structures may be
missing; unknown ones are ignored and named. Instead of both a case may have the files of a DICOM CT and its RTSTRUCT,
under any names. Or, with --layout openkbp, a clone of OpenKBP.
Out: <prepared>/resampled/<case>/ with image.nrrd (HU, int16), label.nrrd (1, 2, ...), reference.nrrd (labels on the
CT's own grid), case.json. Stopped at any moment, the same command goes on. Exit code 1 when a case had to be skipped.
"""
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from focusnet_v2.config import BACKGROUND_WEIGHT, STEPS, Config, Prepare, PrepareOptions, Volumes, default_weights
from focusnet_v2.grids import to_network_grid
from shared_data import openkbp
from shared_data.cohort import (all_skipped, check_apart, check_case_name, each_case, fingerprint, printable,
                                say_skipped, subfolders)
from shared_data.colour_tables import write_colour_tables
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, whole_folder, write_json
from shared_data.folds import natural_sort
from shared_data.named_types import Values
from shared_data.organs import read_label_table
from shared_data.rois import labels_of, read_rois
from shared_data.settings import build, given_options, keep_config, names_of
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import SUFFIXES, check_same_grid, geometry, read_ct, read_mask, to_lps, write_volume


def main(argv: Sequence[str] | None = None) -> int:
    config = build(Config, given_settings(argv, __doc__))
    cases = find_cases(config)
    read_rois(config.rois, config.organs)  # tells of a bad file before any case is read
    check_apart(config.data_dir, config.prepared_dir)
    with only_run_in(config.prepared_dir, "resampled"):
        keep_config(config, config.prepared_dir / "config.json", names_of(Volumes),
                    openkbp.CONSTANTS if config.layout == "openkbp" else None, Prepare)
        return prepare_cohort(cases, config)


def given_settings(argv: Sequence[str] | None, description: str | None) -> Values:
    """The options given, a label table among them as the settings `organs`, `small` and `alpha`."""
    settings = given_options(PrepareOptions, argv, description, STEPS)
    if path := settings.pop("label_table", None):
        table = read_label_table(path)
        organs, small, weights = table["organs"], table["small"], table["weights"]
        alpha = (BACKGROUND_WEIGHT, *weights) if weights else default_weights(organs, small)
        settings = {"organs": organs, "small": small, "alpha": alpha, **settings}
    return settings


def find_cases(config: Config) -> Sequence[tuple[str | None, Path]]:
    """[(part, folder)], part being None where the layout has none."""
    if config.layout == "openkbp":
        return openkbp.find_cases(config.data_dir)
    names = subfolders(config.data_dir)
    if not names:
        raise InputError(f"{config.data_dir}: no case in it. Expected <case>/img.nrrd and <case>/structures/*.nrrd.")
    return [(None, config.data_dir / name) for name in names]


def prepare_cohort(cases: Sequence[tuple[str | None, Path]], config: Config) -> int:
    """Resample every case; 1 when some had to be skipped."""
    skipped, organs = {}, []
    for (_, folder), outcome in each_case(partial(prepare_case, config=config), cases, config.workers, "case",
                                          config.scheduler, config.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[folder.name] = outcome.reason
            continue
        organs += outcome["organs"]
        noteworthy = {"missing": [name for name in config.organs if name not in outcome["organs"]],
                      "ignored": outcome["ignored"]}
        remarks = [f"{what} {', '.join(names)}" for what, names in noteworthy.items() if names]
        for line in (*remarks, *outcome["notes"]):
            print(f"{printable(folder.name)}: {line}")
    if not organs:
        raise all_skipped(config.data_dir, skipped)
    write_colour_tables(dict(enumerate(config.organs, 1)), config.prepared_dir / "labels")
    print(f"{len(cases) - len(skipped)} cases: {config.prepared_dir / 'resampled'}. Next: crop_data.py")
    return say_skipped(skipped)


def prepare_case(case: tuple[str | None, Path], config: Config) -> dict[str, Any] | Skipped:
    """What case.json holds, the volumes written; or `Skipped`."""
    part, folder = case
    target = config.prepared_dir / "resampled" / folder.name
    try:
        check_case_name(folder)
        drawn = find_drawn(folder, config)
        ct_path, structures, ignored = (folder, {}, []) if drawn else find_files(folder, config)
        sources = {path.name: fingerprint(path)
                   for path in (ct_path, *structures.values(), drawn and config.rois) if path}
        if (facts := kept_facts(target)) and facts.get("sources") == sources:
            return facts
        notes: list[str] = []
        if config.layout == "openkbp":
            ct, labels, organs, notes = openkbp.read_case(folder, config.organs)
        elif drawn:
            ct, labels, organs, ignored = labels_of(folder, *drawn, config.organs, read_rois(config.rois))
        else:
            ct = read_ct(ct_path)
            labels, organs = merge_structures(ct, structures, config.organs)
    except (InputError, OSError) as error:
        return Skipped(one_line(error))
    scan, ct, labels = geometry(ct), to_lps(ct), to_lps(labels)
    facts = {"case": folder.name, "part": part, "sources": sources, "scan": scan, "organs": organs, "ignored": ignored,
             "notes": notes}
    with whole_folder(target) as partial_folder:
        image = to_network_grid(sitk.Cast(ct, sitk.sitkFloat32), config)
        write_volume(sitk.Cast(sitk.Round(image), sitk.sitkInt16), partial_folder / "image.nrrd")
        write_volume(to_network_grid(labels, config, sitk.sitkNearestNeighbor), partial_folder / "label.nrrd")
        write_volume(labels, partial_folder / "reference.nrrd")
        write_json(partial_folder / "case.json", facts)
    return facts


def find_drawn(folder: Path, config: Config) -> tuple[Path, str] | None:
    """`find_rtstruct` of a case without a folder of structures."""
    return None if config.layout == "openkbp" or (folder / "structures").is_dir() else find_rtstruct(folder)


def find_files(folder: Path, config: Config) -> tuple[Path, dict[str, Path], list[str]]:
    """(CT, {organ: its file} in label order, names of other structures). Names match in any case."""
    if config.layout == "openkbp":
        files = openkbp.case_files(folder)
        return files.pop("ct"), files, []
    found = files_by_stem(folder, "img")
    if len(found) != 1:
        raise InputError(f"{folder}: {len(found)} files named img.nrrd (or {' '.join(SUFFIXES)}). Keep exactly one.")
    inside = folder / "structures"
    if not inside.is_dir():
        raise InputError(f"{folder}: no folder named structures. Put the organs' masks there.")
    structures: dict[str, Path] = {}
    for organ in config.organs:
        masks = files_by_stem(inside, organ)
        if len(masks) > 1:
            raise InputError(f"{inside}: {len(masks)} masks of {organ}. Keep one.")
        if masks:
            structures[organ] = masks[0]
    others = natural_sort(path.name for path in inside.iterdir()
                          if path.name[0] != "." and path not in structures.values())
    if not structures:
        raise InputError(f"{inside}: none of {', '.join(config.organs)}. Name each organ's mask like this.")
    return found[0], structures, [ascii(name)[1:-1] if not name.isprintable() else name for name in others]


def files_by_stem(folder: Path, stem: str) -> list[Path]:
    names = {stem.lower() + suffix for suffix in SUFFIXES}
    return [path for path in sorted(folder.iterdir())
            if path.name.lower() in names or (path.name.lower() == stem.lower() and path.is_dir())]


def merge_structures(ct: sitk.Image, structures: Mapping[str, Path],
                     organs: Sequence[str]) -> tuple[sitk.Image, list[str]]:
    """(label map on the CT's grid, organs in it); where two overlap, the later label stays. Empty masks count as
    missing."""
    merged, drawn = np.zeros(ct.GetSize()[::-1], np.uint8), []
    for organ, path in structures.items():
        mask = read_mask(path, any_label=True)
        check_same_grid(ct, mask, path)
        inside = sitk.GetArrayViewFromImage(mask) > 0
        merged[inside] = organs.index(organ) + 1
        if inside.any():
            drawn.append(organ)
    if not drawn:
        raise InputError(f"{path.parent}: every mask is empty. At least one organ must be drawn.")
    labels = sitk.GetImageFromArray(merged)
    labels.CopyInformation(ct)
    return labels, drawn


def kept_facts(target: Path) -> dict[str, Any] | None:
    """case.json of a case that was written whole, else None."""
    try:
        facts = read_json(target / "case.json")
    except (InputError, OSError):
        return None
    return {"part": None, "notes": [], **facts} if (
        isinstance(facts, dict) and {"organs", "ignored", "scan"} <= facts.keys()) else None


if __name__ == "__main__":
    run_script(main)
