"""Detection on whole scans: candidates, FROC, CPM."""
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.inference import segment
from lung_nodule_nasnet.members import load_members
from lung_nodule_nasnet.nodules import Finding, read_luna_annotations
from lung_nodule_nasnet.postprocess import find_nodules
from lung_nodule_nasnet.predict import WINDOW_HU, prepare_network
from lung_nodule_nasnet.reducer import load_reducer, rate
from lung_nodule_nasnet.scans import Scan, find_scans, read_scan
from shared_data.cohort import all_skipped, say_skipped
from shared_data.errors import InputError
from shared_data.files import write_json, write_table
from shared_data.named_types import Labels, Rgb, Row
from shared_results.ensembles import as_fact, in_words
from shared_results.froc import Matched, bootstrap, cpm, draw_froc, froc_rows, match
from shared_results.pictures import contact_sheet, overlay, save_picture
from shared_results.report import write_report
from shared_results.scoring import score_each
from shared_results.sweep import without_small
from shared_results.viewer import View, viewer_pages, write_viewer

if TYPE_CHECKING:
    import keras

    from lung_nodule_nasnet.test import Filled

Picture = tuple[Rgb, str]  # and its caption
Loaded = tuple[list["keras.Model"], "keras.Model | None"]  # (networks, reducer of false positives)

PLACE = ("coordX", "coordY", "coordZ")
TILES = 16


def score_scans(options: "Filled", config: Config, seen: set[str]) -> int:
    """Score every scan of the folder that training has not seen; 1 when some had to be skipped."""
    assert options.scans
    annotations = options.nodules or options.scans / "annotations.csv"
    listed = read_luna_annotations(annotations)
    excluded = read_luna_annotations(options.excluded) if options.excluded else {}
    scans, skipped = find_scans(options.scans)
    fresh = [scan for scan in scans if options.seen_scans or not {scan.uid, scan.patient} & seen]
    if not fresh:
        raise InputError(f"{options.scans}: training has seen all {len(scans)} scans. Keep some out with slice_idx.py "
                         "--leave-out, or score them nevertheless with --seen-scans.")
    if not any(listed.get(scan.uid) for scan in fresh):
        raise InputError(f"{annotations}: no nodule of the {len(fresh)} scans in it. Give their table with --nodules.")
    cases = [(scan, listed.get(scan.uid, []), excluded.get(scan.uid, [])) for scan in fresh]
    networks = [path for path in (*options.checkpoint, options.reducer) if path]
    scored, left_out = score_each(partial(score_scan, config=config), cases, load(options), load, options, networks,
                                  "scan")
    skipped |= {scan.uid: reason for (scan, _, _), reason in left_out}
    results = {scan.uid: matched for (scan, _, _), (matched, _, _) in scored}
    candidates = [row for _, (_, rows, _) in scored for row in rows]
    pictures = [picture for _, (_, _, drawn) in scored for picture in drawn]
    if not results:
        raise all_skipped(options.scans, skipped)
    if not any(len(best) for best, _ in results.values()):
        raise InputError(f"{options.scans}: every scan with a nodule was skipped. "
                         + " | ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    write_results(options, results, candidates, pictures, len(scans) - len(fresh))
    return say_skipped(skipped)


def load(options: "Filled") -> "Loaded":
    """(networks, reducer of false positives or None)"""
    networks, _ = load_members(options.checkpoint,
                               lambda path: prepare_network(path, options.device, {}, options.tta))
    return networks, load_reducer(options.reducer) if options.reducer else None


def score_scan(case: tuple[Scan, list[Finding], list[Finding]], loaded: "Loaded", options: "Filled",
               config: Config) -> tuple[Matched, list[Row], list[Picture]]:
    """(what `match` says of the candidates of a (scan, its nodules, excluded findings), rows of
    candidates_class.csv, pictures)"""
    (scan, truth, excluded), (network, reducer) = case, loaded
    mask, probability, ct = segment(network, read_scan(scan).image, config)
    mask = without_small(mask > 0, math.prod(ct.GetSpacing()) / 1000, options.smallest_ml).astype(np.uint8)
    found, _ = find_nodules(mask, probability, ct)
    found = rate(reducer, found, ct) if reducer else found
    places = [[nodule[name] for name in (*PLACE, "probability")] for nodule in found]
    candidates = []
    for place in places:
        hit = np.isfinite(match([place], truth)[0]).any()
        ignored = not hit and not len(match([place], truth, excluded)[1])
        candidates.append({"seriesuid": scan.uid, **dict(zip((*PLACE, "probability"), place)),
                           "class": "" if ignored else int(hit)})
    hu, spacing = sitk.GetArrayViewFromImage(ct), ct.GetSpacing()[::-1]
    write_viewer(options.output_dir, scan.uid, View(hu, spacing, {1: "nodule"}, mask, spheres(ct, truth),
                                                    window_hu=WINDOW_HU))
    return match(places, truth, excluded), candidates, draw(ct, mask, truth, scan.patient)


def spheres(ct: sitk.Image, truth: Sequence[Finding]) -> Labels:
    """The annotated nodules (x, y, z, diameter in mm) as a mask (z, y, x) on an image in LPS."""
    mask, spacing = np.zeros(ct.GetSize()[::-1], np.uint8), ct.GetSpacing()[::-1]
    for x, y, z, diameter in truth:
        middle = ct.TransformPhysicalPointToContinuousIndex((x, y, z))[::-1]
        radius = [diameter / 2 / mm for mm in spacing]  # voxels
        ends = [np.clip([math.floor(at - r), math.ceil(at + r) + 1], 0, size)
                for at, r, size in zip(middle, radius, mask.shape)]
        box = tuple(slice(*end) for end in ends)
        mask[box] |= sum(((index - at) / r) ** 2 for index, at, r in zip(np.ogrid[box], middle, radius)) <= 1
    return mask


def draw(ct: sitk.Image, mask: Labels, truth: Sequence[Finding], name: str) -> list[Picture]:
    """An (RGB, caption) pair for the largest nodule of a scan, its sphere in green."""
    if not truth:
        return []
    x, y, z, diameter = max(truth, key=lambda row: row[3])
    at = ct.TransformPhysicalPointToContinuousIndex((x, y, z))
    hu, spacing = sitk.GetArrayViewFromImage(ct), ct.GetSpacing()
    k = int(np.clip(round(at[2]), 0, len(hu) - 1))
    rows, columns = np.ogrid[:hu.shape[1], :hu.shape[2]]
    sphere = ((rows - at[1]) * spacing[1]) ** 2 + ((columns - at[0]) * spacing[0]) ** 2 <= (diameter / 2) ** 2
    low, high = WINDOW_HU
    return [(overlay((hu[k] - low) / (high - low), sphere, mask[k], 320), f"{name[-30:]} slice {k}")]


def write_results(options: "Filled", results: Mapping[str, Matched], candidates: Sequence[Row],
                  pictures: Sequence[Picture], n_seen: int) -> None:
    assert options.scans
    out, scans = options.output_dir, list(results.values())
    n_nodules = sum(len(best) for best, _ in scans)
    found = sum(int(np.isfinite(best).sum()) for best, _ in scans)
    interval = bootstrap(scans, options.bootstrap_samples)
    rows = [{"seriesuid": uid, "nodules": len(best), "found": int(np.isfinite(best).sum()),
             "false_positives": len(false)} for uid, (best, false) in results.items()]
    curve = froc_rows(scans, interval)
    summary = {"scans": len(scans), "scans_of_the_training_left_out": n_seen, "nodules": n_nodules, "found": found,
               "sensitivity": found / n_nodules,
               "false_positives_per_scan": sum(len(false) for _, false in scans) / len(scans),
               "cpm": cpm(scans), "cpm_low": interval["cpm"][0], "cpm_high": interval["cpm"][1]}
    write_table(out / "cases.csv", rows)
    columns = ("seriesuid", *PLACE, "probability")
    write_table(out / "candidates.csv", [{name: row[name] for name in columns} for row in candidates], columns)
    write_table(out / "candidates_class.csv", [row for row in candidates if row["class"] != ""], (*columns, "class"))
    write_json(out / "summary.json", {**as_fact(options.checkpoint), "tta": options.tta, "reducer": options.reducer,
                                      "scores": summary, "froc": curve})
    draw_froc(scans, out / "froc.png")
    figures = {"FROC": out / "froc.png"}
    if pictures:
        save_picture(out / "overlays" / "contact_sheet.png", contact_sheet(pictures[:TILES]))
        figures["the largest nodule of each scan (annotation green, prediction red)"] = (
            out / "overlays" / "contact_sheet.png")
    write_report(out / "report.html", f"NASNet-GCN, scans of {options.scans.name}", [
        f"{in_words(options.checkpoint)}.{options.views_note} A candidate within a nodule's radius of its centre is a "
        "hit; of several on one nodule the most probable counts; those on excluded findings are left out. CPM: mean of "
        f"the seven sensitivities. low, high: 95 % interval over {options.bootstrap_samples} sets of scans drawn with "
        f"replacement. {n_seen} scans of the training were left out. In the viewer the reference is a sphere of the "
        "annotated diameter."],
        {"Scores": [{"score": name, "value": value} for name, value in summary.items()], "FROC": curve, "Scans": rows},
        figures, viewer_pages(out, results))
    print(f"CPM {summary['cpm']:.3f} ({interval['cpm'][0]:.3f} to {interval['cpm'][1]:.3f})  found {found} of "
          f"{n_nodules} nodules  {summary['false_positives_per_scan']:.2f} false positives a scan")
    print(f"report: {out / 'report.html'}")
