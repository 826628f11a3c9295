"""Segment the organs of a CT: python predict.py --input CT --output labels.nii.gz --checkpoint best.pt [more.pt]

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series, in any orientation. The label map is on the CT's own
grid; beside it are written <name>_overlay.png, <name>_viewer.html (opens in a browser), <name>.json (volumes in ml,
components) and, with several checkpoints, <name>_uncertainty.nii.gz (entropy of their votes; the JSON holds its mean
over each organ). --ensemble RUNS takes the folds that crossval.py left there. With a folder of CTs or a CSV of paths as
input and a folder as output, each CT gets the same, and there are cases.csv and report.html; the same command continues
after a stop.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk

from sepnet.checkpoint import SHIPPED
from sepnet.config import METHOD, Transform
from sepnet.drawing import case_sheet
from sepnet.inference import segment as segment_slices
from sepnet.members import Members, NetworkOptions, find_folds, load_members
from sepnet.volumes import cropped, network_grid, onto_lps, transformed
from shared_data.errors import run_script
from shared_data.organs import list_organs, organs_found
from shared_data.settings import parse_options, set_options
from shared_data.volume import geometry, onto_scan, to_lps
from shared_data.votes import vote_entropy
from shared_results.ensembles import EnsembleOptions, uncertainty_path, with_members
from shared_results.operating_point import OrganPoint, smallest_of_each
from shared_results.outputs import Prediction, ResultOptions
from shared_results.predicting import Method, predict
from shared_results.stopwatch import Stopwatch
from shared_results.sweep import without_islands


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions, EnsembleOptions, OrganPoint, NetworkOptions):
    checkpoint: tuple[Path, ...] = (SHIPPED,)  # ours or the authors'; several: an ensemble; unset: the shipped one
    crop_size: int | None = None  # side of the centre crop, voxels; unset: the checkpoint's (256)
    transform: Transform | None = None  # intensity function; unset: each checkpoint's own (authors' files: 1)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(Options, argv, __doc__)
    options = with_members(options, find_folds)
    if options.checkpoint == (SHIPPED,):
        print(f"weights: {SHIPPED} (one member, OpenKBP, for research)")
    return predict(options, Method(METHOD, load, segment))


def load(options: Options) -> Members:
    members = load_members(options.checkpoint, options, **set_options(options, "crop_size"))
    smallest_of_each(options, members.config.organs, METHOD)  # raises now, not after the first CT
    return members


def segment(members: Members, ct: sitk.Image, options: Options, watch: Stopwatch) -> Prediction:
    """Segment a CT as read from its file."""
    config = members.config
    scan, ct = geometry(ct), to_lps(ct)
    resampled = network_grid(ct, config)
    size_x, size_y, _ = resampled.GetSize()
    warnings = []
    if max(size_x, size_y) > config.crop_size:
        warnings.append(f"slices of {size_x}x{size_y} voxels; the central {config.crop_size}x{config.crop_size} are "
                        f"segmented. --crop-size {8 * math.ceil(max(size_x, size_y) / 8)} takes all.")
    hu, _ = cropped(resampled, config.crop_size, fill=-1024)
    intensity_functions = [own.control_points(options.transform) for own in members.configs]
    images = {points: transformed(hu, points) for points in set(intensity_functions)}
    volumes = [images[points] for points in intensity_functions]
    labels, votes = segment_slices(members.networks, volumes, config, members.device, progress=watch.network)
    to_ct = partial(onto_lps, network_grid=geometry(resampled), ct_grid=geometry(ct))
    smallest_ml = smallest_of_each(options, config.organs, METHOD)
    prediction = without_islands(to_ct(labels), math.prod(ct.GetSpacing()) / 1000, smallest_ml)
    labels = without_islands(labels, math.prod(resampled.GetSpacing()) / 1000, smallest_ml)  # of the picture
    entropy = vote_entropy(votes) if len(votes) > 1 else None
    entropy_on_ct = None if entropy is None else to_ct(entropy)
    organs = list_organs(prediction, ct.GetSpacing(), config.classes[1:], entropy_on_ct)
    return Prediction(
        labels=onto_scan(prediction, scan), names=dict(enumerate(config.classes[1:], 1)),
        facts={"checkpoints": options.checkpoint, "smallest_ml": smallest_ml, "organs": organs},
        picture=case_sheet(volumes[0], {"prediction": labels}, config.classes, entropy, 8),
        volumes={} if entropy_on_ct is None else {uncertainty_path(options.output): onto_scan(entropy_on_ct, scan)},
        warnings=warnings, **organs_found(organs))


if __name__ == "__main__":
    from sepnet import predict as module  # imported by name, so that other processes can unpickle its functions
    run_script(module.main)
