"""Segment the organs of one CT: python predict.py --input ct.nrrd --output labels.nrrd

input: NIfTI, NRRD, MetaImage or a folder with one DICOM series; any orientation and length. The label map lies on the
CT's own grid; beside it come <name>_overlay.png and <name>.json (volumes in ml, components, small organs' centres).
"""
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from focusnet_v2.checkpoint import SHIPPED, load_network
from focusnet_v2.config import Device, Precision
from focusnet_v2.drawing import case_sheet
from focusnet_v2.grids import to_network_grid
from focusnet_v2.inference import choose_device, choose_precision, ready, segment_ct
from shared_data.engines import Engine
from shared_data.errors import run_script
from shared_data.files import write_json
from shared_data.metrics import components
from shared_data.pictures import save_picture
from shared_data.results import ResultOptions, check_results, write_results
from shared_data.settings import parse_options, set_options, with_changes
from shared_data.volume import geometry, onto_scan, read_ct, to_lps, without_suffix


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions):
    checkpoint: Path = SHIPPED  # of any stage, or the authors'; unset: the weights that ship (OpenKBP)
    window_step: int | None = None  # slices between windows; unset: the checkpoint's (20)
    window_side: int | None = None  # of a central square to segment, voxels; unset: the checkpoint's (the head)
    heatmap_threshold: float | None = None  # a box counts only above this peak; unset: the checkpoint's (0.6)
    small_threshold: float | None = None  # probability that makes a small organ; unset: the checkpoint's (0.5)
    device: Device = "auto"  # auto: cuda, else mps, else cpu
    engine: Engine = "auto"  # auto: OpenVINO on a CPU, PyTorch elsewhere
    precision: Precision = "auto"  # auto: bf16-mixed on CPUs with bfloat16 instructions, else 32-true


def main(argv=None):
    options = parse_options(Options, argv, __doc__)
    check_results(options)
    device = choose_device(options.device)
    if options.checkpoint == SHIPPED:
        print(f"weights: {SHIPPED} (main network alone, OpenKBP, for research)")
    network, config, _ = load_network(options.checkpoint)
    changes = set_options(options, "window_step", "window_side", "heatmap_threshold", "small_threshold")
    config = with_changes(config, {**changes, "precision": choose_precision(options.precision, device)})
    network = ready(network, options.engine, config, device)
    ct = read_ct(options.input, options.series)
    scan, ct = geometry(ct), to_lps(ct)
    seen = to_network_grid(sitk.Cast(ct, sitk.sitkFloat32), config)
    result = segment_ct(network, ct, sitk.Cast(sitk.Round(seen), sitk.sitkInt16), config, device,
                        partial(tqdm, desc=options.input.name, unit="window", disable=None))
    write_results(onto_scan(result["final"], scan), dict(enumerate(config.organs, 1)), options, "FocusNet v2")
    stem = without_suffix(options.output)
    organs = list_organs(result, ct.GetSpacing(), config)
    write_json(f"{stem}.json", {"input": options.input, "output": options.output, "checkpoint": options.checkpoint,
                                "organs": organs})
    save_picture(f"{stem}_overlay.png", case_sheet(ct, {"prediction": result["final"]}, config, tiles=6))
    absent = [row["organ"] for row in organs if not row["components"]]
    print(f"{len(organs) - len(absent)} organs, {sum(row['volume_ml'] for row in organs):.1f} ml: {options.output}"
          + (f"; not found: {', '.join(absent)}" if absent else ""))


def list_organs(result, spacing_xyz, config):
    """[{"label", "organ", "volume_ml", "components", of small organs "peak" and "centre_xyz_mm" (LPS) of the heatmap,
    and "box_counted"}]"""
    rows = []
    for label, organ in enumerate(config.organs, 1):
        mask = result["final"] == label
        row = {"label": label, "organ": organ, "volume_ml": float(mask.sum() * math.prod(spacing_xyz) / 1000),
               "components": components(mask)[1]}
        if label in config.small_labels and result["peaks"]:
            i = config.small_labels.index(label)
            peak, place = result["peaks"][i]
            row |= {"peak": peak, "centre_xyz_mm": place, "box_counted": bool(result["counted"][i])}
        rows.append(row)
    return rows


if __name__ == "__main__":
    run_script(main)
