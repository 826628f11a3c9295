"""CTs to the region around the retroperitoneal nodes, found from the vertebrae; every voxel keeps its place.

    python crop.py --ct_dir CT/ [--mask_dir masks/] --vert_seg_dir vertebrae/ --output_dir processed/ [--parallel]
    python crop.py --single --ct_file CT --vert_seg_file V --ct_output OUT [--mask_file M --mask_output OUT]

Files belong together when their case ids are equal: the name without suffix and without _0000. Writes images/, labels/,
regions/ (JSON, to paste a prediction back), report.csv and report.json. Stopped at any moment, the same command goes
on. Exit code 1 when a case had to be skipped.
"""
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from retroln_nnunet.config import STEPS, Config, Crop, Region
from retroln_nnunet.region import Located, locate
from shared_data.cohort import (all_skipped, check_apart, check_case_name, each_case, fingerprint, printable,
                                say_skipped)
from shared_data.errors import InputError, Skipped, one_line, run_script
from shared_data.files import only_run_in, read_json, write_json, write_table
from shared_data.folds import natural_sort
from shared_data.named_types import Array, Row, StrPath
from shared_data.rois import NODES, masks_of, read_rois
from shared_data.settings import at_least, build, given_options, keep_config, names_of
from shared_data.structure_sets import find_rtstruct
from shared_data.volume import (SUFFIXES, Grid, check_hu, check_labels, check_output, check_same_grid, geometry,
                                image_from, open_volume, without_suffix, write_volume)

# Settings that decide what a crop looks like; the others may change between runs over one folder.
REGION_SETTINGS = names_of(Region)
CROP_SETTINGS = (*REGION_SETTINGS, "merge_labels")


@dataclass(frozen=True)
class CropConfig(Crop, Config):
    """What crop.py works with."""

    if TYPE_CHECKING:  # never None once they are filled in
        ct_dir: Path = Path()
        vert_seg_dir: Path = Path()
        output_dir: Path = Path()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "worker_memory_gb")
        if self.mask_dir is None and self.ct_dir is None and (self.data_dir / "masks").is_dir():
            object.__setattr__(self, "mask_dir", self.data_dir / "masks")
        for name, value in (("ct_dir", self.data_dir / "CT"), ("vert_seg_dir", self.data_dir / "vertebrae"),
                            ("output_dir", self.prepared_dir)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.single and None in (self.ct_file, self.vert_seg_file, self.ct_output):
            raise ValueError("--single needs --ct-file, --vert-seg-file and --ct-output.")
        if (self.mask_file is None) != (self.mask_output is None):
            raise ValueError("--mask-file and --mask-output belong together.")


def find_region(ct_path: StrPath, vertebrae: StrPath, **settings: Any) -> Located:
    """The region of a CT file: a dict with `start_xyz` and `size_xyz` (voxels, in the file's axis order), the limits
    along each axis (`ap_start`, `ap_end`, `lr_start`, `lr_end` exclusive; `si_min`, `si_max` inclusive), `reference`,
    `vertebrae`, `warnings`, ...

    vertebrae: a folder of vertebrae_T12 ... vertebrae_L5, a multi-label file, or an unlabelled one.
    settings: of Config, as ap_mm=180, si_extent="L2". Raises InputError without a vertebra, or on another grid.
    """
    return locate(open_volume(ct_path)[0], Path(vertebrae), Config(**settings))


def main(argv: Sequence[str] | None = None) -> int:
    config = build(CropConfig, given_options(Crop, argv, __doc__, STEPS))
    if config.single:
        return crop_single(config)
    read_rois(config.rois, NODES)  # tells of a bad file before any case is read
    cases = find_cases(config.ct_dir)
    for folder in filter(None, (config.ct_dir, config.mask_dir, config.vert_seg_dir)):
        check_apart(folder, config.output_dir)
    with only_run_in(config.output_dir, "", "images", "labels", "regions"):
        keep_config(replace(config, single=False), config.output_dir / "config.json", CROP_SETTINGS, part=Crop)
        return crop_cohort(cases, config)


def crop_single(config: CropConfig) -> int:
    assert config.ct_file and config.vert_seg_file and config.ct_output  # CropConfig has seen to it
    check_output(config.ct_output, config.ct_file)
    if config.mask_output:
        check_output(config.mask_output, config.mask_file)
        if len({config.ct_output, config.mask_output, config.ct_file, config.mask_file}) < 4:
            raise InputError(f"{config.mask_output}: a file is named twice. CT, mask and the outputs must differ.")
    row, region = crop_case(config.ct_file, config.mask_file, config.vert_seg_file, config.ct_output,
                            config.mask_output, config)
    write_json(f"{without_suffix(config.ct_output)}.json", region)
    print("  ".join(f"{name} {value}" for name, value in row.items() if value not in (None, "")))
    return 0


def crop_cohort(cases: Mapping[str, list[Path]], config: CropConfig) -> int:
    """Crop every case and write the report; 1 when some had to be skipped."""
    rows, skipped = [], {}
    for case, outcome in crop_all(cases, config):
        if isinstance(outcome, Skipped):
            skipped[printable(case)] = outcome.reason
        else:
            rows.append({"case": case, **outcome})
    if not rows:
        raise all_skipped(config.ct_dir, skipped)
    write_table(config.output_dir / "report.csv", rows)
    write_json(config.output_dir / "report.json", {"cases": rows, "skipped": skipped})
    print(f"{len(rows)} cases cropped: {config.output_dir}")
    for row in rows:
        if row["notes"]:
            print(f"note on {row['case']}: {row['notes']}", file=sys.stderr)
    return say_skipped(skipped)


def case_id(path: Path) -> str:
    """Name without suffix and without nnU-Net's channel number."""
    return (path.name if path.is_dir() else without_suffix(path.name)).removesuffix("_0000")


def find_cases(folder: Path) -> dict[str, list[Path]]:
    """{case id: paths} of a folder in natural order; raises InputError when there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the cohort with --data-dir, or name another one.")
    cases: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name[0] != "." and (path.is_dir() or path.name.lower().endswith(SUFFIXES)):
            cases.setdefault(case_id(path), []).append(path)
    if not cases:
        raise InputError(f"{folder}: no volumes in it. Expected {' '.join(SUFFIXES)}, or DICOM folders.")
    return {case: cases[case] for case in natural_sort(cases)}


def crop_all(cases: Mapping[str, list[Path]], config: CropConfig) -> Iterator[tuple[str, Row | Skipped]]:
    """Yield (case, its row of the report, or why it was skipped), in order."""
    masks = find_cases(config.mask_dir) if config.mask_dir else None
    vertebrae = find_cases(config.vert_seg_dir)
    jobs = [(case, paths, None if masks is None else masks.get(case, []), vertebrae.get(case, []))
            for case, paths in cases.items()]
    workers = max(1, config.num_processes) if config.parallel else 0
    for (case, *_), outcome in each_case(partial(crop_job, config=config), jobs, workers, "case", config.scheduler,
                                         config.worker_memory_gb):
        yield case, outcome


def crop_job(job: tuple[str, list[Path], list[Path] | None, list[Path]], config: CropConfig) -> Row | Skipped:
    """Row of the report of one case, its files written; or `Skipped`."""
    case, cts, masks, levels = job
    try:
        check_case_name(Path(case))
        rtstruct = find_rtstruct(cts[0]) if not masks and cts[0].is_dir() else None
        if rtstruct:  # in the folder of a DICOM CT that has no mask
            masks = [rtstruct[0]]
        ct = _only(cts, "CT", case)
        mask = None if masks is None else _only(masks, "mask", case)
        vertebrae = _only(levels, "vertebrae", case)
        facts = {str(path): fingerprint(path) for path in (ct, mask, vertebrae, rtstruct and config.rois) if path}
        image, label, region_path = (config.output_dir / path for path in (
            f"images/{case}_0000.nii.gz", f"labels/{case}.nii.gz", f"regions/{case}.json"))
        row = finished(region_path, facts) if image.exists() and (label.exists() or mask is None) else None
        if row is None:
            row, region = crop_case(ct, mask, vertebrae, image, label, config, rtstruct and rtstruct[1])
            write_json(region_path, {"case": case, **region, "report": row, "sources": facts})
        return row
    except (InputError, OSError) as error:
        return Skipped(one_line(error))


def finished(region_path: Path, facts: dict[str, Any]) -> Row | None:
    """Row of the report of a case cropped before from these very files, else None."""
    try:
        region = read_json(region_path)
        return region["report"] if region["sources"] == facts and region["report"]["size_xyz"] else None
    except (InputError, KeyError, TypeError):  # absent, or damaged
        return None


def _only(paths, what, case):
    if len(paths) != 1:
        names = f" ({', '.join(printable(path.name) for path in paths)})" if paths else ""
        raise InputError(f"{len(paths)} candidates for the {what} of case {case}{names}. One is needed.")
    return paths[0]


def crop_case(ct_path: Path, mask_path: Path | None, vertebrae: Path, ct_output: Path, mask_output: Path | None,
              config: CropConfig, series: str | None = None) -> tuple[Row, Located]:
    """Crop one case; (row of the report, region). mask_path may be None, or the RTSTRUCT of the DICOM `series`. No more
    than the crop is held in memory, but for DICOM."""
    ct, slices = open_volume(ct_path, series)
    region = locate(ct, vertebrae, config)
    notes = list(region["warnings"])
    cropped = cut_slices(slices, ct, region)
    check_hu(cropped, ct_path)
    hu_zyx = sitk.GetArrayViewFromImage(cropped)
    row = {"reference": region["reference"], "vertebrae": " ".join(region["vertebrae"]),
           "size_xyz": "x".join(map(str, region["size_xyz"])),
           "hu_min": float(hu_zyx.min()), "hu_mean": float(hu_zyx.mean()), "hu_max": float(hu_zyx.max())}
    if mask_path:
        assert mask_output
        mask = open_nodes(mask_path, ct, config) if series else open_volume(mask_path)
        row |= crop_mask(mask, mask_path, mask_output, ct, region, notes, config)
    write_volume(to_unit(cropped, config.min_hu, config.max_hu) if config.normalize
                 else sitk.Cast(cropped, sitk.sitkFloat32), ct_output)
    row["notes"] = "; ".join(notes)
    paths = {"ct": str(ct_path), "mask": str(mask_path) if mask_path else None, "vertebrae_from": str(vertebrae)}
    return row, {**region, **paths, "scan": geometry(ct),
                 "settings": {name: asdict(config)[name] for name in CROP_SETTINGS}}


def open_nodes(rtstruct: Path, ct: Grid, config: CropConfig) -> tuple[Grid, Iterator[Array]]:
    """What `open_volume` gives of a mask: of the ROIs that are nodes."""
    assert isinstance(ct, sitk.Image)
    nodes = masks_of(rtstruct, ct, NODES, NODES | read_rois(config.rois, NODES))[0]["node"]
    return nodes, iter(sitk.GetArrayViewFromImage(nodes))


def crop_mask(mask: tuple[Grid, Iterator[Array]], path: Path, output: Path, ct: Grid, region: Located, notes: list[str],
              config: CropConfig) -> Row:
    """Write the part of a mask (`open_volume` of its path) within the region, its integer type kept; what the report
    says about it."""
    grid, slices = mask
    check_same_grid(ct, grid, path)
    labels, total = set(), 0

    def counted():
        nonlocal total
        for plane in slices:
            node = plane > 0 if config.merge_labels else plane
            total += int(np.count_nonzero(node))
            if node.any():
                labels.update(np.unique(node).tolist())
            yield node.astype(np.uint8 if plane.dtype.kind == "f" else plane.dtype)

    inside = cut_slices(counted(), ct, region)
    check_labels(labels, path)
    n_inside = int(np.count_nonzero(sitk.GetArrayViewFromImage(inside)))
    lost_ml = (total - n_inside) * float(np.prod(ct.GetSpacing())) / 1000
    if not total:
        notes.append("the mask is empty")
    elif lost_ml:
        notes.append(f"the region cuts {lost_ml:.2f} ml ({1 - n_inside / total:.1%}) off the mask")
    write_volume(inside, output)
    return {"mask_voxels": total, "share_inside": n_inside / total if total else None, "lost_ml": lost_ml}


def cut_slices(slices: Iterable[Array], grid: Grid, region: Located) -> sitk.Image:
    """The part within the region, as an image, of a volume that passes by slice by slice (`open_volume`)."""
    (x, y, z), (width, height, depth) = region["start_xyz"], region["size_xyz"]
    part = None
    for k, plane in enumerate(slices):  # to the end: a damaged file is found there
        if part is None:
            part = np.empty((depth, height, width), plane.dtype.newbyteorder("="))
        if z <= k < z + depth:
            part[k - z] = plane[y:y + height, x:x + width]
    assert part is not None
    direction = np.reshape(grid.GetDirection(), (3, 3))
    origin = grid.GetOrigin() + direction @ (np.array(grid.GetSpacing()) * region["start_xyz"])
    return image_from(part, {**geometry(grid), "origin_xyz": origin.tolist()})


def cut(image: sitk.Image, region: Located) -> sitk.Image:
    """The part of an image within the region."""
    return sitk.RegionOfInterest(image, region["size_xyz"], region["start_xyz"])


def paste(prediction: sitk.Image, region: Located) -> sitk.Image:
    """A mask on the crop's grid as an image on the whole CT's; 0 outside."""
    scan = region["scan"]
    whole = sitk.Image(scan["size_xyz"], prediction.GetPixelID())
    whole.SetSpacing(scan["spacing_xyz"])
    whole.SetOrigin(scan["origin_xyz"])
    whole.SetDirection(scan["direction"])
    return sitk.Paste(whole, prediction, prediction.GetSize(), destinationIndex=region["start_xyz"])


def to_unit(image: sitk.Image, min_hu: float = -1000.0, max_hu: float = 400.0) -> sitk.Image:
    """HU clipped to the window and scaled to [0, 1], float32."""
    unit = sitk.GetArrayFromImage(image).astype(np.float32)
    np.clip(unit, min_hu, max_hu, out=unit)
    unit -= min_hu
    unit /= max_hu - min_hu
    scaled = sitk.GetImageFromArray(unit)
    scaled.CopyInformation(image)
    return scaled


if __name__ == "__main__":
    run_script(main)
