"""What predict.py of every project reads and writes: one CT in; its labels out, for programs and for the clinic."""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_data.colour_tables import write_colour_tables
from shared_data.dicom import choose_series, find_ct_series
from shared_data.dicom_seg import write_seg
from shared_data.errors import InputError
from shared_data.instances import ct_instances
from shared_data.rtstruct import write_rtstruct
from shared_data.volume import check_output, without_suffix, write_volume


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    input: Path  # the CT
    output: Path  # the labels on the CT's grid; the suffix is the format
    series: str | None = None  # UID of the DICOM series to take, where the folder holds several
    rtstruct: Path | None = None  # write the outlines there too, as DICOM RTSTRUCT; needs a DICOM folder as input
    seg: Path | None = None  # write the labels there too, as DICOM SEG; needs a DICOM folder as input
    seg_type: Literal["binary", "labelmap"] = "binary"  # labelmap: smaller, for readers that know DICOM of 2024


def check_results(options):
    """Raise InputError now when `write_results` could not write later."""
    check_output(options.output, options.input)
    derived = [path for path in (options.rtstruct, options.seg) if path]
    for path in derived:
        if not options.input.is_dir():
            raise InputError(f"{path}: DICOM objects refer to the slices of a DICOM series. Give a DICOM folder as "
                             "--input, or leave them out.")
        if path.is_dir():
            raise InputError(f"{path}: a folder. Name a file.")
        if path.exists() and options.input.resolve() in path.resolve().parents:
            raise InputError(f"{path}: would overwrite a file of the input. Name another.")
    if len({options.output, *derived}) <= len(derived):
        raise InputError(f"{options.output}: named twice. Labels, RTSTRUCT and SEG are three files.")
    if derived:
        ct_instances(_files(options))


def write_results(labels, names, options, algorithm):
    """Write an image of the labels {label: name} as the options say; beside several, colour tables. Its grid is the
    CT's own, or that of the mended series: the DICOM objects go back to the true slices in any case."""
    write_volume(labels, options.output)
    if len(names) > 1:
        write_colour_tables(names, without_suffix(options.output))
    if options.rtstruct:
        write_rtstruct(labels, names, _files(options), options.rtstruct, algorithm)
    if options.seg:
        write_seg(labels, names, _files(options), options.seg, algorithm, options.seg_type == "labelmap")


def _files(options):
    return [file for file, _ in choose_series(find_ct_series(options.input), options.input, options.series)]
