"""Find the nodules of one CT: python predict.py --input ct.nii.gz --output mask.nii.gz

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series; any orientation. The mask lies on the CT's own grid;
beside it come <name>_nodules.csv, <name>_overlay.png and <name>.json (volumes in ml, nodules).
"""
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from lung_nodule_nasnet.checkpoint import load_network
from lung_nodule_nasnet.config import ROOT, Device, ThresholdRule
from lung_nodule_nasnet.postprocess import find_nodules, write_nodules
from lung_nodule_nasnet.reducer import load_reducer, rate
from shared_data.errors import run_script
from shared_data.files import write_json
from shared_data.pictures import mask_sheet, save_picture
from shared_data.results import ResultOptions, check_results, write_results
from shared_data.settings import parse_options, set_options, with_changes
from shared_data.volume import check_output, geometry, onto_scan, read_ct, write_volume

WINDOW_HU = (-1200.0, 300.0)  # of the pictures


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions):
    checkpoint: Path = ROOT / "runs" / "lung_nodule_nasnet" / "best.npz"  # of train.py, or a Keras .h5 of the authors
    reducer: Path | None = None  # fpr.npz of train_fpr.py: rates the nodules anew
    min_probability: float = 0.0  # nodules below it are left out
    threshold_rule: ThresholdRule | None = None  # how a slice is cut; unset: the checkpoint's
    centre_distance: float | None = None  # of the two class centres of a slice; unset: the checkpoint's
    erode: bool | None = None  # erode the mask of a slice by 5x5; unset: the checkpoint's
    min_pixels: int | None = None  # a slice with fewer mask pixels counts as empty; unset: the checkpoint's
    predict_batch: int | None = None  # slices at a time; unset: the checkpoint's
    save_probability: Path | None = None  # write the probability of each voxel there
    device: Device = "auto"  # auto: gpu where there is one

    def __post_init__(self):
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"--min-probability {self.min_probability} must lie in 0..1.")


def main(argv=None):
    options = parse_options(Options, argv, __doc__)
    check_results(options)
    if options.save_probability:
        check_output(options.save_probability, options.input)
    ct = read_ct(options.input, options.series)
    network, config = prepare_network(options.checkpoint, options.device, set_options(
        options, "threshold_rule", "centre_distance", "erode", "min_pixels", "predict_batch"))
    from lung_nodule_nasnet.inference import segment
    mask, probability, lps = segment(network, ct, config,
                                     partial(tqdm, desc=options.input.name, unit="batch", disable=None))
    nodules, labels = find_nodules(mask, probability, lps)
    if options.reducer:
        nodules = rate(load_reducer(options.reducer), nodules, lps)
    nodules = [nodule for nodule in nodules if nodule["probability"] >= options.min_probability]
    mask = np.isin(labels, [nodule["label"] for nodule in nodules]).astype(np.uint8)
    write_results(onto_scan(mask, geometry(ct)), {1: "nodule"}, options, "NASNet-GCN")
    if options.save_probability:
        write_volume(onto_scan(probability, geometry(ct)), options.save_probability)
    stem = write_nodules(options.output, nodules)
    write_json(f"{stem}.json", {
        "input": options.input, "output": options.output, "checkpoint": options.checkpoint, "components": nodules,
        "volume_ml": sum(nodule["volume_ml"] for nodule in nodules)})
    save_picture(f"{stem}_overlay.png", mask_sheet(sitk.GetArrayViewFromImage(lps), mask, WINDOW_HU))
    print(f"{len(nodules)} nodules, {sum(nodule['volume_ml'] for nodule in nodules):.2f} ml: {options.output}")


def prepare_network(checkpoint, device, changes):
    """(network, its Config with `changes`), on the device."""
    from lung_nodule_nasnet.devices import choose_strategy
    choose_strategy(device, 1)
    network, config = load_network(checkpoint)
    return network, with_changes(config, changes)


if __name__ == "__main__":
    run_script(main)
