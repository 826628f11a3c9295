"""The windows that lidc_crops.py made from LIDC-IDRI crops, converted for S-Net's train.py.

    python -m tests.bench.lidc_crops --data <lidc_crops> --size 48 --prepared-dir data/prepared/lidc_48
    python -m tests.bench.lidc_crops_snet --windows data/prepared/lidc_48 --prepared-dir data/prepared/lidc_snet

Same windows, patients and split; not enlarged, since S-Net keeps the full grid. Grey values -1..2 are stored as 0..1.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from lung_nodule_nasnet.preprocess import read_slices_of
from shared_data.files import read_json, read_table, whole_folder
from shared_data.settings import keep_config
from snet_neck_ln.config import Config
from snet_neck_ln.process_data.data_parser import write_fold
from snet_neck_ln.slices import to_16bit


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=Path, required=True)
    parser.add_argument("--prepared-dir", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for name in (row["patient"] for row in read_table(options.windows / "scans.csv", ["patient"])):
        images, masks = read_slices_of(options.windows / name)
        with whole_folder(options.prepared_dir / name) as case:
            (case / "files").mkdir()
            for k, (image, mask) in enumerate(zip(images, masks)):
                np.savez_compressed(case / "files" / f"{k}.npz", image=to_16bit((image + 1) / 3), mask=mask)
                rows.append({"patient": name, "path": f"{name}/files/{k}.npz", "has_node": str(int(mask.any()))})
    keep_config(replace(Config(), prepared_dir=options.prepared_dir), options.prepared_dir / "config.json")
    split = read_json(options.windows / "slice_idx.json")
    parts = {"train": split["train_patients"], "valid": split["validation_patients"], "test": []}
    with whole_folder(options.prepared_dir / "folds") as folds:
        write_fold(folds / "fold1", parts, rows)
    print(f"{len(rows)} windows of {len({row['patient'] for row in rows})} patients: {options.prepared_dir}")


if __name__ == "__main__":
    main()
