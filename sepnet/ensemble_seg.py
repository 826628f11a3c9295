"""Several models -> one: python ensemble_seg.py --results-dir ../runs/sepnet/results

Reads every <results>/<member>/<patient>/probability.npz of segmentation.py; writes
<results>/ensemble/<patient>/segmentation.nii.gz.
"""
import zipfile
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from sepnet.members import ChainOptions, patients_of, read_case
from sepnet.segmentation import write_segmentation
from shared_data.errors import InputError, run_script
from shared_data.named_types import Array, Labels
from shared_data.settings import parse_options


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_options(ChainOptions, argv, __doc__)
    for patient in patients_of(options.prepared_dir, options.split):
        folders = member_folders(options.results_dir, patient)
        labels = fuse(read_probability(folder / "probability.npz") for folder in folders)
        case = read_case(options.prepared_dir / options.split / patient)
        write_segmentation(labels, options.results_dir / "ensemble" / patient, case)
        print(f"{patient}: {', '.join(folder.parent.name for folder in folders)}")


def member_folders(results_dir: Path, patient: str) -> list[Path]:
    """The <member>/<patient> folders with a segmentation, except the ensemble's. Raises InputError if there is none."""
    found = sorted(path.parent for path in results_dir.glob(f"*/{patient}/segmentation.nii.gz")
                   if path.parent.parent.name != "ensemble")
    if not found:
        raise InputError(f"{results_dir}: no <member>/{patient}/segmentation.nii.gz. Run segmentation.py first.")
    return found


def read_probability(path: Path) -> Array:
    """The array (class, z, y, x) in a probability.npz. Raises InputError for a missing or damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["probability"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Run segmentation.py again.") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: damaged. Run segmentation.py again.") from error


def fuse(scores: Iterable[Array]) -> Labels:
    """Arg-max over classes of the members' summed scores (class, ...), each truncated to integers (authors)."""
    return reduce(np.add, (score.astype(np.int32) for score in scores)).argmax(0).astype(np.uint8)


if __name__ == "__main__":
    run_script(main)
