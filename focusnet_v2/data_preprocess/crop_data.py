"""Resampled cases to training cases: python data_preprocess/crop_data.py

Splits the cohort, crops the training and validation cases around the head, and writes which organs each of them has.
The authors' crop goes by brain stem, parotids and optic nerves; where the label table lacks one of these landmarks,
what test.py and predict.py segment of a CT is kept.
Out: <prepared>/cropped/<case>/{image,label}.nrrd (true origin), cases.csv (case, part, note), presence.csv (0 or 1 for
each class; background 0 when any organ is missing). Test cases are not cropped: no reference label is used for them.
"""
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from focusnet_v2.cases import Pair, assign_parts, presence_flags
from focusnet_v2.config import STEPS, Config, Crop, CropConfig, Table, Volumes
from focusnet_v2.data_preprocess.data_preprocess import kept_facts
from focusnet_v2.grids import AIR_HU, CONSTANTS, cut_image, seen_box
from shared_data.cohort import all_skipped, each_case, say_skipped
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, whole_folder, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.named_types import Labels, Shape
from shared_data.settings import as_prepared, build, given_options, names_of
from shared_data.volume import read_volume, write_volume

CROP_SETTINGS = ("crop_side", "crop_anterior", "crop_below", "crop_above")
# Organs that the authors' crop goes by, each before those that may stand in for it.
LANDMARKS = (("BrainStem",), ("Parotid_R", "Parotid_L"), ("OpticNerve_L", "OpticNerve_R", "Chiasm"))


def main(argv: Sequence[str] | None = None) -> int:
    options = given_options(Crop, argv, __doc__, STEPS)
    folder = options.get("prepared_dir", Crop.prepared_dir) / "resampled"
    facts = {path.parent.name: case for path in folder.glob("*/case.json") if (case := kept_facts(path.parent))}
    names = natural_sort(facts)
    if not names:
        raise InputError(f"{folder}: no resampled case. Run data_preprocess.py first.")
    config = build(CropConfig, as_prepared(Config, options, folder.parent / "config.json", names_of(Volumes),
                                           names_of(Table)))
    published = {name: facts[name]["part"] for name in names if facts[name]["part"]}
    pairs, note = assign_parts(names, config, published)
    for line in filter(None, (note, same_voxels(config))):
        print(f"note: {line}")
    with only_run_in(config.prepared_dir, "cropped"):
        return crop_cohort(pairs, config)


def same_voxels(config: CropConfig) -> str | None:
    """What to say of a crop whose voxels are no longer the authors', while its numbers of voxels are; else None."""
    same = [f"--{name.replace('_', '-')} {getattr(config, name)}" for name in CROP_SETTINGS
            if getattr(config, name) == getattr(Config, name)]
    if config.spacing_xyz == Config.spacing_xyz or not same or not by_landmarks(config):
        return None
    return (f"{', '.join(same)} count voxels of the authors' 1x1x2.5 mm; yours have "
            f"{'x'.join(f'{mm:g}' for mm in config.spacing_xyz)} mm. Prepare again with such as fit them, if that is "
            "not meant.")


def crop_cohort(pairs: Sequence[Pair], config: CropConfig) -> int:
    """Crop what is trained and validated on, write the tables; 1 when some cases had to be skipped."""
    wanted = natural_sort({name for name, part in pairs if part != "test"})
    skipped, rows, notes = {}, [], {}
    for name, outcome in each_case(partial(crop_case, config=config), wanted, config.workers, "case",
                                   config.scheduler, config.worker_memory_gb):
        if isinstance(outcome, Skipped):
            skipped[name] = outcome.reason
            continue
        rows.append({"case": name, **dict(zip(config.classes, outcome["presence"]))})
        notes[name] = "; ".join(outcome["notes"])
        if notes[name]:
            print(f"{name}: {notes[name]}")
    pairs = [(name, part) for name, part in pairs if name not in skipped]
    for part in ("train", "valid"):
        if part not in {assigned for _, assigned in pairs}:
            raise all_skipped(f"{config.prepared_dir}, {part}", skipped)
    write_table(config.prepared_dir / "presence.csv", rows)
    write_table(config.prepared_dir / "cases.csv",
                [{"case": name, "part": part, "note": notes.get(name, "")} for name, part in pairs])
    counts = {part: sum(assigned == part for _, assigned in pairs) for part in ("train", "valid", "test")}
    print(", ".join(f"{count} {part}" for part, count in counts.items())
          + f" cases: {config.prepared_dir / 'cases.csv'}")
    if absent := [name for name in config.organs if not any(row[name] for row in rows)]:
        print(f"organs that never occur: {', '.join(absent)}")
    return say_skipped(skipped)


def crop_case(name: str, config: CropConfig) -> dict[str, Any] | Skipped:
    """{"presence", "notes"} of a case, its crop written; or `Skipped`."""
    source, target = config.prepared_dir / "resampled" / name, config.prepared_dir / "cropped" / name
    try:
        made_with = {"sources": read_json(source / "case.json")["sources"],
                     **{setting: getattr(config, setting) for setting in CROP_SETTINGS}}
        constants: dict[str, Any] = {"LANDMARKS": [list(group) for group in LANDMARKS]}
        if not by_landmarks(config):
            made_with |= {"patch_zyx": list(config.patch_zyx), "window_side": config.window_side}
            constants = CONSTANTS
        done = kept_crop(target, made_with, constants, config.n_classes)
        if done:
            return done
        image, label = read_volume(source / "image.nrrd"), read_volume(source / "label.nrrd")
    except (InputError, OSError) as error:
        return Skipped(one_line(error))
    if by_landmarks(config):
        start, shape, notes = head_region(sitk.GetArrayViewFromImage(label), config)
    else:
        (start, shape), notes = seen_box(sitk.GetArrayViewFromImage(image), config), []
    cropped = cut_image(label, start, shape)
    present = np.unique(sitk.GetArrayViewFromImage(cropped))
    if not present.any():
        return Skipped(f"{source}: no organ is left at {config.spacing_xyz} mm. Check the label files.")
    done = {"presence": presence_flags(present, config.n_classes), "notes": notes, "made_with": made_with,
            "constants": constants}
    with whole_folder(target) as folder:
        write_volume(cut_image(image, start, shape, AIR_HU), folder / "image.nrrd")
        write_volume(cropped, folder / "label.nrrd")
        write_json(folder / "crop.json", done)
    return done


def kept_crop(target: Path, made_with: dict[str, Any], constants: dict[str, Any],
              n_classes: int) -> dict[str, Any] | None:
    """crop.json of a case cropped from these very files with these settings and constants, if any are recorded; else
    None."""
    try:
        crop = read_json(target / "crop.json")
        same = crop["made_with"] == made_with and crop.get("constants", constants) == constants
        return crop if same and len(crop["presence"]) == n_classes else None
    except (InputError, OSError, KeyError, TypeError):
        return None


def by_landmarks(config: CropConfig) -> bool:
    """Whether the authors' crop can be found with the organs of the label table."""
    return all(any(organ in config.organs for organ in group) for group in LANDMARKS)


def head_region(labels: Labels, config: CropConfig) -> tuple[Shape, Shape, list[str]]:
    """(start, shape (z, y, x), notes) of the crop: around the brain stem's centre moved forward, from below the right
    parotid to above the left optic nerve. Missing landmarks give way to others; the notes name them.

    In plane it may begin before 0: there the volume is padded.
    """
    notes, used = [], np.argwhere(labels > 0)
    low, high = (used.min(0), used.max(0)) if len(used) else (np.zeros(3, int), np.array(labels.shape) - 1)

    def centre(*organs):
        for organ in organs:
            voxels = np.argwhere(labels == config.classes.index(organ)) if organ in config.organs else np.zeros((0, 3))
            if len(voxels):
                if organ != organs[0]:
                    notes.append(f"{organs[0]} missing: {organ} in its place")
                return voxels.mean(0)
        notes.append(f"{organs[0]} missing: bounding box of all organs")
        return None

    stem, parotid, nerve = (centre(*organs) for organs in LANDMARKS)
    first = low[0] if parotid is None else round(parotid[0]) - config.crop_below
    last = high[0] + 1 if nerve is None else round(nerve[0]) + config.crop_above
    first, last = max(0, int(first)), min(len(labels), int(last))
    if last <= first:
        notes.append("landmarks in the wrong order: all slices with organs")
        first, last = int(low[0]), int(high[0]) + 1
    middle = (low + high)[1:] / 2 if stem is None else stem[1:] - (config.crop_anterior, 0)
    middle = np.clip(np.round(middle), 0, np.array(labels.shape[1:]) - 1).astype(int)
    y, x = (middle - config.crop_side // 2).tolist()
    return (first, y, x), (last - first, config.crop_side, config.crop_side), notes


if __name__ == "__main__":
    run_script(main)
