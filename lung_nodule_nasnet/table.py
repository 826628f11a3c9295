"""Prepared slices to one compressed HDF5 table: python table.py

<prepared>/table.h5 holds, slice by slice, `data` (N, size, size) float32, `truth` uint8, `subject_ids` (patients),
`series_uids`, `slice_index` and `spacing_zyx` (mm; NaN where preprocess.py, of an older version, kept none). It gets
its name when it is complete.
"""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import tables

from lung_nodule_nasnet.config import STEPS, Prepared
from lung_nodule_nasnet.preprocess import finished, read_slices_of
from shared_data.errors import InputError, run_script
from shared_data.files import check_free_space, only_run_in, read_table, whole_file
from shared_data.named_types import Floats, Mask
from shared_data.settings import parse_options

FILTERS = tables.Filters(complevel=5, complib="blosc", fletcher32=True)
TEXT = tables.StringAtom(128)


class Columns(TypedDict):
    """What `read_columns` gives, slice by slice."""

    subject_ids: list[str]  # patients
    series_uids: list[str]
    slice_index: list[int]  # in the scan, from its lowest slice
    spacing_zyx: Floats  # (n, 3) mm, NaN where it is not known
    has_nodule: Mask
    size: int  # pixels along a side


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_options(Prepared, argv, __doc__, STEPS)
    rows = read_table(config.prepared_dir / "scans.csv", ["seriesuid", "patient"])
    with only_run_in(config.prepared_dir, ""):
        path = config.prepared_dir / "table.h5"
        n = write_slices(path, [config.prepared_dir / row["seriesuid"] for row in rows])
    print(f"{n} slices of {len(rows)} scans: {path}")


def write_slices(path: Path, cases: Iterable[Path]) -> int:
    """Write all slices of the prepared scans; their number."""
    check_free_space(path.parent, 50e6)
    with whole_file(path) as partial:
        try:
            with tables.open_file(str(partial), "w") as table:
                n = _fill(table, cases)
        except tables.HDF5ExtError as error:
            raise OSError(28, "could not be written whole", str(path)) from error
        with open_slices(partial):  # read back
            pass
    return n


def _fill(table, cases):
    arrays: dict[str, tables.EArray] = {}
    for case in cases:
        facts = finished(case)
        if facts is None:
            raise InputError(f"{case}: not prepared, or damaged. Run preprocess.py again.")
        images, masks = read_slices_of(case)
        if images.shape != masks.shape or len(images) != len(facts["slices"]) or (
                arrays and images.shape[1:] != arrays["data"].shape[1:]):
            raise InputError(f"{case}: its slices do not fit its case.json. Delete the folder, and prepare again.")
        if not arrays:
            side = images.shape[1]
            arrays = {name: table.create_earray("/", name, atom, (0, *shape), filters=FILTERS,
                                                chunkshape=(1 if len(shape) > 1 else 1024, *shape), track_times=False)
                      for name, atom, shape in (
                          ("data", tables.Float32Atom(), (side, side)), ("truth", tables.UInt8Atom(), (side, side)),
                          ("subject_ids", TEXT, ()), ("series_uids", TEXT, ()),
                          ("slice_index", tables.Int32Atom(), ()), ("spacing_zyx", tables.Float64Atom(), (3,)))}
        arrays["data"].append(images.astype(np.float32))
        arrays["truth"].append(masks)
        for name, value in (("subject_ids", facts["patient"]), ("series_uids", facts["seriesuid"])):
            arrays[name].append(np.array([value.encode("utf-8")[:128]] * len(images)))
        arrays["slice_index"].append(np.array(facts["slices"], np.int32))
        arrays["spacing_zyx"].append(np.tile(facts.get("spacing_zyx", [np.nan] * 3), (len(images), 1)))
    table.root._v_attrs.n_slices = int(arrays["data"].nrows)
    return int(arrays["data"].nrows)


def open_slices(path: Path) -> tables.File:
    """The table, open for reading. Raises InputError when it is absent, cut short or another file."""
    if not path.exists():
        raise InputError(f"{path}: no such table. Run table.py.")
    tables.silence_hdf5_messages()  # of this thread
    try:
        table = tables.open_file(str(path), "r")
    except (tables.HDF5ExtError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path}: damaged or cut short. Run table.py again.") from error
    try:
        lengths = {int(table.root[name].nrows) for name in
                   ("data", "truth", "subject_ids", "series_uids", "slice_index")}
        usable = lengths == {int(table.root._v_attrs.n_slices)} and table.root.data.shape == table.root.truth.shape
    except (LookupError, AttributeError, tables.HDF5ExtError):
        usable = False
    if not usable:
        table.close()
        raise InputError(f"{path}: not a whole table of slices. Run table.py again.")
    return table


def read_columns(path: Path) -> Columns:
    """`Columns` of the table."""
    with open_slices(path) as table:
        try:
            patients, uids = ([text.decode("utf-8") for text in table.root[name].read()]
                              for name in ("subject_ids", "series_uids"))
            spacing = table.root.spacing_zyx.read() if "spacing_zyx" in table.root else np.full((len(uids), 3), np.nan)
            return {"size": int(table.root.data.shape[1]), "subject_ids": patients, "series_uids": uids,
                    "slice_index": table.root.slice_index.read().tolist(), "spacing_zyx": spacing,
                    "has_nodule": np.array([bool(plane.any()) for plane in table.root.truth.iterrows()])}
        except (tables.HDF5ExtError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: damaged. Run table.py again.") from error


def case_names(columns: Columns) -> dict[str, str]:
    """{series UID: its patient, with a number where he has several scans}"""
    scans: dict[str, list[str]] = {}
    for uid, patient in dict(zip(columns["series_uids"], columns["subject_ids"])).items():
        scans.setdefault(patient, []).append(uid)
    return {uid: patient if len(uids) == 1 else f"{patient}_{number}"
            for patient, uids in scans.items() for number, uid in enumerate(uids, 1)}


if __name__ == "__main__":
    run_script(main)
