"""Segment the retroperitoneal nodes of one CT: python predict.py --input ct.nii.gz --output nodes.nii.gz

CT -> vertebrae (TotalSegmentator, or --vertebrae) -> region -> nnU-Net -> mask on the CT's own grid; beside it come
<name>_overlay.png, <name>_viewer.html (opens in a browser) and <name>.json (volumes in ml, components). input: NIfTI,
NRRD, MetaImage or a DICOM folder.
A folder of CTs or a CSV of paths as input and a folder as output: the same for each, cases.csv and report.html; started
again, it goes on. Several checkpoints, or --ensemble FOLDER (nnU-Net's folds): their mean probability;
<name>_uncertainty.nii.gz is the entropy of their votes, its mean over each component stands in the JSON.
"""
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from retroln_nnunet import vert_seg
from retroln_nnunet.config import METHOD, RegionConfig
from retroln_nnunet.crop import case_id, cut, paste, to_unit
from retroln_nnunet.model import find_folds, load_members, predict_members, without_small_parts
from retroln_nnunet.region import Located, locate
from retroln_nnunet.train import model_dir
from shared_data.ct_cases import Case
from shared_data.errors import InputError, run_script
from shared_data.metrics import list_components
from shared_data.named_types import Mask, Rgb
from shared_data.settings import build, given_options, load_config
from shared_data.volume import geometry, image_from, to_lps, write_volume
from shared_data.votes import most_disputed, vote_entropy
from shared_results.ensembles import EnsembleOptions, as_fact, uncertainty_path, with_members
from shared_results.operating_point import NodePoint, with_operating_point
from shared_results.outputs import Prediction, ResultOptions
from shared_results.pictures import contact_sheet, overlay
from shared_results.predicting import Method, predict
from shared_results.stopwatch import Stopwatch
from shared_torch.devices import choose_device

WINDOW_HU = (-160.0, 240.0)  # of the pictures
REGION_RGB = (250, 210, 60)


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions, EnsembleOptions, NodePoint, RegionConfig):
    vertebrae: Path | None = None  # of one CT: its folder or file; several: a folder of such; unset: TotalSegmentator
    checkpoint: tuple[Path, ...] | None = None  # nnU-Net's .pth; unset: checkpoint_final.pth of the fold
    threshold: float | None = None  # probability that makes a node; unset: nnU-Net's (0.5)
    mirror: bool = True  # average over mirrored copies (nnU-Net); --no-mirror: eight times as fast
    fast: bool = False  # TotalSegmentator's 3 mm model
    vert_seg_device: Literal["gpu", "cpu"] = "gpu"  # where TotalSegmentator runs

    def __post_init__(self) -> None:
        ResultOptions.__post_init__(self)
        RegionConfig.__post_init__(self)

    def networks(self) -> tuple[Path, ...]:
        return (*super().networks(), *([self.vertebrae] if self.vertebrae else []))

    def for_case(self, case: Case) -> "Options":
        options = super().for_case(case)
        if not self.vertebrae:
            return options
        folder = self.vertebrae / case.name.removesuffix("_0000")
        return replace(options, vertebrae=folder if folder.exists() else folder.with_name(f"{folder.name}.nii.gz"))


@dataclass(frozen=True, kw_only=True)
class Filled(Options):
    """Options in which this is not unset any more."""

    checkpoint: tuple[Path, ...]


def main(argv: Sequence[str] | None = None) -> int:
    typed = given_options(Options, argv, __doc__)
    options = filled(build(Options, typed))
    region = options.checkpoint[0].parent.parent / "region.json"  # as in training, unless given here
    if region.exists():
        options = filled(load_config(Options, region, typed))
    options = with_operating_point(options, METHOD)
    return predict(options, Method(METHOD, load, segment))


def filled(options: Options) -> Filled:
    options = with_members(options, find_folds)
    fold = model_dir(options) / f"fold_{options.fold}"
    return Filled(**{**vars(options), "checkpoint": options.checkpoint or (fold / "checkpoint_final.pth",)})


def load(options: Filled) -> list[nnUNetPredictor]:
    return load_members(options.checkpoint, choose_device(options.device), options.mirror)


def segment(predictors: Sequence[nnUNetPredictor], ct: sitk.Image, options: Filled, watch: Stopwatch) -> Prediction:
    """The `Prediction` of a CT as read."""
    region = {**find_vertebrae_and_region(ct, options), "scan": geometry(ct)}
    crop = cut(ct, region)
    if options.normalize:
        crop = to_unit(crop, options.min_hu, options.max_hu)
    watch.ends("prepare")
    mask, votes = predict_members(predictors, crop, options.threshold)
    watch.ends("network")
    mask = without_small_parts(paste(mask, region), options.smallest_ml)
    turned, entropy, volumes = to_lps(mask), None, {}
    if votes:
        image = image_from(vote_entropy(np.stack([*map(sitk.GetArrayViewFromImage, votes)])), geometry(crop))
        volumes[uncertainty_path(options.output)] = paste(image, region)
        entropy = sitk.GetArrayFromImage(to_lps(volumes[uncertainty_path(options.output)]))
    found = list_components(sitk.GetArrayViewFromImage(turned) > 0, turned, entropy)
    total = sum(node["volume_ml"] for node in found)
    return Prediction(
        labels=mask, names={1: "lymph node"}, picture=three_planes(ct, region, prediction=mask),
        facts={**as_fact(options.checkpoint), "threshold": options.threshold or 0.5,
               "smallest_ml": options.smallest_ml, "volume_ml": total, "components": found,
               "region": {name: region[name] for name in (
                   "start_xyz", "size_xyz", "reference", "vertebrae", "warnings", "orientation")}},
        found=f"{len(found)} components, {total:.2f} ml",
        row={"volume_ml": total, "components": len(found), **most_disputed(found, entropy)},
        warnings=list(region["warnings"]), volumes=volumes)


def find_vertebrae_and_region(ct: sitk.Image, options: Filled) -> Located:
    """The region, from the vertebrae given or from TotalSegmentator's."""
    if options.vertebrae:
        return locate(ct, options.vertebrae, options)
    with tempfile.TemporaryDirectory() as folder:
        work = vert_seg.Options(input_dir=options.input.parent, output_dir=Path(folder), fast=options.fast,
                                device=options.vert_seg_device)
        source = options.input
        if source.is_dir():  # the series chosen, mended where it had to be
            source = Path(folder) / "ct.nii.gz"
            write_volume(ct, source)
        status, reason = vert_seg.segment(source, vert_seg.find_program(), work)
        if status not in ("success", "incomplete"):
            reason = reason.replace("--device", "--vert-seg-device")
            raise InputError(f"{options.input}: {reason} Or give --vertebrae from another tool.")
        return locate(ct, Path(folder) / case_id(source), options)


def three_planes(ct: sitk.Image, region: Located, reference: sitk.Image | None = None,
                 prediction: sitk.Image | None = None) -> Rgb:
    """RGB of an axial, a coronal and a sagittal slice through the mask with most voxels (or the region's middle);
    region yellow, reference green, prediction red."""
    frame = sitk.Image(ct.GetSize(), sitk.sitkUInt8)
    frame.CopyInformation(ct)
    inside = sitk.Image(region["size_xyz"], sitk.sitkUInt8) + 1
    frame = sitk.Paste(frame, inside, inside.GetSize(), destinationIndex=region["start_xyz"])
    hu, box = (sitk.GetArrayFromImage(to_lps(image)) for image in (ct, frame))
    masks = [None if image is None else sitk.GetArrayFromImage(to_lps(image)) for image in (reference, prediction)]
    drawn = [mask for mask in masks if mask is not None and mask.any()]
    low, high = WINDOW_HU
    spacing_zyx = to_lps(ct).GetSpacing()[::-1]
    pictures = []
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        in_plane = tuple(each for each in range(3) if each != axis)
        k = int((drawn[0] > 0).sum(axis=in_plane).argmax() if drawn else np.flatnonzero(box.any(axis=in_plane)).mean())
        planes: list[Any] = [None if array is None else np.take(array, k, axis) for array in (hu, box, *masks)]
        if axis:  # superior on top, pixels square
            planes = [None if plane is None else _square(plane[::-1], spacing_zyx[0] / spacing_zyx[in_plane[1]])
                      for plane in planes]
        picture = overlay((planes[0] - low) / (high - low), planes[2], planes[3], 320)
        outline(picture, planes[1])
        pictures.append((picture, f"{name} {k}"))
    return contact_sheet(pictures, 3)


def _square(plane, ratio):
    rows = np.clip(np.arange(max(1, round(len(plane) * ratio))) / ratio, 0, len(plane) - 1).astype(int)
    return plane[rows]


def outline(picture: Rgb, box: Mask) -> None:
    """Draw the border of a box (boolean plane) on an RGB picture of it."""
    rows, columns = (np.flatnonzero(box.any(axis=axis)) for axis in (1, 0))
    if len(rows):
        scale = picture.shape[1] / box.shape[1]
        top, bottom = (min(picture.shape[0] - 1, int(edge * scale)) for edge in (rows[0], rows[-1] + 1))
        left, right = (min(picture.shape[1] - 1, int(edge * scale)) for edge in (columns[0], columns[-1] + 1))
        picture[[top, bottom], left:right + 1] = REGION_RGB
        picture[top:bottom + 1, [left, right]] = REGION_RGB


if __name__ == "__main__":
    from retroln_nnunet import predict as module  # under the name by which other processes find what it hands them
    run_script(module.main)
