"""Gain and cost of --tta for NASNet-GCN on real nodules, and the calibration of its probabilities.

    python -m tests.bench.nodule_views --data <lidc_crops> --checkpoint lung_nodule_nasnet/weights/lidc_crops.npz \
        --every 4 --output-dir OUT

In .venv-keras. Predicts every n-th crop (--every) of the validation and test patients of tests.bench.lidc_crops with
the network alone and with the mean over the flips of its training. The threshold of each is the one with the best Dice
over all pixels of the validation crops; both are also scored at the checkpoint's cut. Intervals: bootstrap over test
patients. calibration.csv and .png of the test crops are written to the output folder.
"""
import argparse
import time
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.inference import on_windows
from lung_nodule_nasnet.predict import prepare_network
from lung_nodule_nasnet.windows import probability_map
from shared_results.calibration import histogram, write_calibration
from tests.bench.lidc_crops import held_out, read_crops
from tests.bench.real_nodules import CUTS, Slices, difference, interval, pooled_dice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    rows, images, votes = read_crops(options.data)
    chosen = held_out(rows, votes)[::options.every]
    slices = Slices([rows[k] for k in chosen], votes[chosen])
    tables, at_own_cut, took = {}, {}, {}
    for name, tta in (("network alone", False), ("--tta", True)):
        network, config = prepare_network(options.checkpoint, "cpu", {}, tta)
        everywhere, start = np.ones(images.shape[1:], bool), time.process_time()
        maps = np.stack([probability_map(on_windows(network), images[k], everywhere, config) for k in chosen])
        took[name] = time.process_time() - start
        cut = slices.best(CUTS / 255, lambda cut: maps > cut)
        tables[name], at_own_cut[name] = slices.score(maps > cut), slices.score(maps > config.cut)
        by_patient: dict[str, np.ndarray] = {}
        for k in np.flatnonzero(slices.part == "test"):
            patient = slices.rows[k]["patient"]
            by_patient[patient] = by_patient.get(patient, 0) + histogram(maps[k], slices.drawn[k])
        (calibration,) = write_calibration(options.output_dir / name.strip("-"), {
            patient: counts[None] for patient, counts in by_patient.items()}, ["nodule"])
        print(f"{name}: cut {cut:.2f}, Dice over all pixels {interval(tables[name], pooled_dice)}, at cut "
              f"{config.cut:.2f} {interval(at_own_cut[name], pooled_dice)}, ECE "
              f"{calibration['ece']:.3f} ({calibration['low']:.3f} to {calibration['high']:.3f}), said "
              f"{calibration['probability']:.3f}, drawn {calibration['frequency']:.3f}, below "
              f"{calibration['below']:.3f}, time {took[name] / took['network alone']:.1f}")
    print(f"{len(tables['--tta'])} test crops, {len(by_patient)} patients; gain "
          f"{difference(tables['--tta'], tables['network alone'])}, at the checkpoint's cut "
          f"{difference(at_own_cut['--tta'], at_own_cut['network alone'])}")


if __name__ == "__main__":
    main()
