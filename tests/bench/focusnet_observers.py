"""How far apart two observers of the same patients are: the oncologist scored against the radiographer.

    python -m tests.bench.focusnet_observers --data /path/to/han_contours [--write]

--data: <patient>_oncologist.nii.gz and <patient>_radiographer.nii.gz, with labels.json {"ids": {organ: label}}. Scores
with our metrics and again with MONAI's, and prints the largest differences; then how much of the mandible lies in the
central square of the slices, which is what the authors segment. --write: into human_level.json, from which every report
shows the scores beside our results.
"""
import argparse
import math
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

from focusnet_v2.scoring import SCORES, summarise
from shared_data.files import read_json, write_json
from shared_data.metrics import dice, surface_distances
from shared_results.human_level import HUMAN_LEVEL

OURS = {"Brainstem": "BrainStem", "Mandible": "Mandible", "Optic-Nerve-Lt": "OpticNerve_L",
        "Optic-Nerve-Rt": "OpticNerve_R", "Parotid-Lt": "Parotid_L", "Parotid-Rt": "Parotid_R",
        "Submandibular-Lt": "Submandibular_L", "Submandibular-Rt": "Submandibular_R"}


def compare(folder):
    """([a row for each patient and organ that both drew], {score: largest difference to MONAI's})"""
    ids, rows = read_json(folder / "labels.json")["ids"], []
    differences = dict.fromkeys(SCORES, 0.0)
    for path in sorted(folder.glob("*_radiographer.nii.gz")):
        patient = path.name.split("_")[0]
        image = sitk.ReadImage(str(path))
        maps = [sitk.GetArrayFromImage(image),
                sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{patient}_oncologist.nii.gz")))]
        for organ, label in ids.items():
            masks = [labels == label for labels in maps]
            if not all(mask.any() for mask in masks):
                continue
            used = np.argwhere(masks[0] | masks[1])
            box = tuple(slice(max(0, low - 1), high + 2) for low, high in zip(used.min(0), used.max(0)))
            masks = [np.pad(mask[box], 1) for mask in masks]
            scores = {"dice": dice(*masks), **surface_distances(*masks, image.GetSpacing())}
            other = with_monai(*masks, image.GetSpacing())
            differences = {name: max(differences[name], abs(scores[name] - other[name])) for name in SCORES}
            rows.append({"patient": patient, "organ": OURS.get(organ, organ), **scores})
    return rows, differences


def share_in_the_middle(folder, organ="Mandible", side_mm=192):
    """Of each patient the share of an organ within a central square of the slices."""
    label, shares = read_json(folder / "labels.json")["ids"][organ], []
    for path in sorted(folder.glob("*_oncologist.nii.gz")):
        image = sitk.ReadImage(str(path))
        places = np.argwhere(sitk.GetArrayViewFromImage(image) == label)[:, 1:]
        middle = (np.array(image.GetSize()[1::-1]) - 1) / 2
        shares.append(np.all(abs(places - middle) * image.GetSpacing()[1::-1] <= side_mm / 2, axis=1).mean())
    return shares


def with_monai(reference, prediction, spacing_xyz):
    """The same three scores from MONAI."""
    y, y_pred = (torch.from_numpy(mask)[None, None].float() for mask in (reference, prediction))
    options = {"include_background": True, "spacing": spacing_xyz[::-1]}
    return {"dice": compute_dice(y_pred, y).item(),
            "hd95_mm": compute_hausdorff_distance(y_pred, y, percentile=95, **options).item(),
            "assd_mm": compute_average_surface_distance(y_pred, y, symmetric=True, **options).item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    rows, differences = compare(options.data)
    summary = sorted(summarise(rows, SCORES), key=lambda row: (row["organ"] not in OURS.values(), row["organ"]))
    for row in summary:
        print(f"{row['organ']:18s} {row['n_dice']:3d} patients  " + "  ".join(
            f"{name} {row[name]:.3f} +- {row[name + '_std']:.3f}" for name in SCORES))
    print("largest difference to MONAI: " + ", ".join(f"{name} {value:.2g}" for name, value in differences.items()))
    shares = share_in_the_middle(options.data)
    print(f"mandible within the central 192 mm of the slices: median {np.median(shares):.2f}, least {min(shares):.2f}")
    print(f"{len({row['patient'] for row in rows})} patients, {time.perf_counter() - start:.0f} s")
    if options.write:
        kept = {row["organ"]: {name: round(value, 4) if isinstance(value, float) and math.isfinite(value) else value
                               for name, value in row.items() if name != "organ"} for row in summary}
        write_json(HUMAN_LEVEL, {
            "what": "an oncologist against a radiographer on the same planning CTs, 19 patients (contours of Nikolov "
                    "et al., arXiv 1809.04430, CC BY 4.0; none of the chiasm), scored with this project's metrics",
            "command": "python -m tests.bench.focusnet_observers --data han_contours --write", "organs": kept})


if __name__ == "__main__":
    main()
