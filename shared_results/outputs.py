"""What predict.py of every project takes and writes: a CT in, its labels out, for programs and for the clinic."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import SimpleITK as sitk

from shared_data.colour_tables import write_colour_tables
from shared_data.ct_cases import Case
from shared_data.dicom import series_slices
from shared_data.dicom_seg import write_seg
from shared_data.errors import InputError
from shared_data.files import write_json, write_table
from shared_data.instances import ct_instances
from shared_data.named_types import LabelNames, Rgb, Row
from shared_data.rtstruct import write_rtstruct
from shared_data.settings import Cluster, at_least
from shared_data.volume import check_output, to_lps, without_suffix, write_volume
from shared_results.ensembles import uncertainty_path
from shared_results.pictures import save_picture
from shared_results.stopwatch import Stopwatch
from shared_results.viewer import Content, View, content_of, write_content

Options = TypeVar("Options", bound="ResultOptions")


@dataclass(frozen=True, kw_only=True)
class ResultOptions(Cluster):
    input: Path  # a CT; or several: a folder of CTs at any depth, or a CSV of paths
    output: Path  # for one CT a file, its suffix is the format; for several a folder
    format: Literal["nii.gz", "nii", "nrrd", "mha"] | None = None  # of the files in that folder; unset: nii.gz
    workers: int = 0  # processes, each with its own network and CT; 0: one CT after the other in this process
    series: str | None = None  # UID of the DICOM series, if the folder of one CT holds several
    rtstruct: Path | None = None  # also write a DICOM RTSTRUCT here (several CTs: a folder); needs DICOM input
    seg: Path | None = None  # also write a DICOM SEG here (several CTs: a folder); needs DICOM input
    seg_type: Literal["binary", "labelmap"] = "binary"  # labelmap: smaller, for readers that know DICOM 2024
    viewer: bool = True  # write a page that shows the CT with its labels, at most 10 MB; --no-viewer: none

    if TYPE_CHECKING:  # every project has its own default
        checkpoint: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        at_least(self, 0, "workers", "worker_memory_gb")

    def networks(self) -> tuple[Path, ...]:
        """The files that, beside the CT, determine the result."""
        return self.checkpoint or ()

    def more_volumes(self) -> list[Path]:
        """Paths of further images that options ask for."""
        return []

    def for_case(self: Options, case: Case) -> Options:
        """The options for one `Case` of several."""
        derived = {name: getattr(self, name) / f"{case.name}_{name}.dcm" for name in ("rtstruct", "seg")
                   if getattr(self, name)}
        return replace(self, input=case.input, series=case.series,
                       output=self.output / f"{case.name}.{self.format or 'nii.gz'}", **derived)


@dataclass(frozen=True)
class Prediction:
    """Everything that is written about a CT."""

    labels: sitk.Image  # on the CT's own grid
    names: LabelNames
    facts: dict[str, Any]  # for the JSON file
    picture: Rgb  # the overlay
    found: str  # a summary for the user
    row: Row  # in the table of a cohort: volumes and counts
    warnings: list[str] = field(default_factory=list)
    volumes: dict[Path, sitk.Image] = field(default_factory=dict)  # {path: image}, beside the labels
    tables: dict[Path, tuple[Sequence[Row], Sequence[str]]] = field(default_factory=dict)  # {path: (rows, columns)}


def check_results(options: ResultOptions, files: Sequence[Path] = ()) -> None:
    """Raise InputError if `write_results` could not write later; files: the slices, if known."""
    volumes = [options.output, *options.more_volumes()]
    for path in volumes:
        check_output(path, options.input)
    derived = [path for path in (options.rtstruct, options.seg) if path]
    for path in derived:
        if not options.input.is_dir():
            raise InputError(f"{path}: DICOM objects refer to the slices of a DICOM series. Give a DICOM folder as "
                             "--input, or leave them out.")
        if path.is_dir():
            raise InputError(f"{path}: a folder. Name a file.")
        if path.exists() and options.input.resolve() in path.resolve().parents:
            raise InputError(f"{path}: would overwrite a file of the input. Name another.")
    if len({*volumes, *derived}) < len(volumes) + len(derived):
        raise InputError(f"{options.output}: named twice. Every result is a file of its own.")
    if derived:
        ct_instances(_files(options, files))


def write_results(labels: sitk.Image, names: Mapping[int, str], options: ResultOptions, algorithm: str,
                  files: Sequence[Path] = ()) -> None:
    """Write an image of the labels {label: name} as the options say, with colour tables if there are several labels.

    Its grid is the CT's own, or that of the mended series; DICOM objects always refer to the original slices.
    """
    write_volume(labels, options.output)
    if len(names) > 1:
        write_colour_tables(names, without_suffix(options.output))
    if options.rtstruct:
        write_rtstruct(labels, names, _files(options, files), options.rtstruct, algorithm)
    if options.seg:
        write_seg(labels, names, _files(options, files), options.seg, algorithm, options.seg_type == "labelmap")


def viewer_path(output: Path) -> Path:
    """Path of the viewer page of a result: beside it."""
    return Path(f"{without_suffix(output)}_viewer.html")


def viewer_content(prediction: Prediction, ct: sitk.Image, options: ResultOptions,
                   window_hu: tuple[float, float]) -> Content | None:
    """The content of that page, so small that the CT need not be kept until it is written; None if none is wanted."""
    if not options.viewer:
        return None
    ct, labels = to_lps(ct), to_lps(sitk.Cast(prediction.labels, sitk.sitkUInt8))
    votes = prediction.volumes.get(uncertainty_path(options.output))
    return content_of(View(
        sitk.GetArrayViewFromImage(ct), ct.GetSpacing()[::-1], prediction.names, sitk.GetArrayViewFromImage(labels),
        disagreement=None if votes is None else sitk.GetArrayFromImage(to_lps(votes)), window_hu=window_hu))


def write_prediction(prediction: Prediction, content: Content | None, options: ResultOptions, algorithm: str,
                     watch: Stopwatch, files: Sequence[Path] = ()) -> list[Path]:
    """Write all of a `Prediction`, last the JSON file with the seconds of the `Stopwatch`, and return the paths.

    content: from `viewer_content`.
    """
    stem = without_suffix(options.output)
    summary, overlay = Path(f"{stem}.json"), Path(f"{stem}_overlay.png")
    pages = []
    if content:
        pages.append(viewer_path(options.output))
        write_content(pages[0], f"{Path(stem).name}, {algorithm}", content)
    write_results(prediction.labels, prediction.names, options, algorithm, files)
    for path, image in prediction.volumes.items():
        write_volume(image, path)
    for path, (rows, columns) in prediction.tables.items():
        write_table(path, rows, columns)
    save_picture(overlay, prediction.picture)
    watch.ends("write")
    write_json(summary, {"input": options.input, "output": options.output, **prediction.facts,
                         "seconds": watch.seconds})
    derived = [path for path in (options.rtstruct, options.seg) if path]
    return [options.output, *derived, *map(Path, prediction.volumes), *map(Path, prediction.tables), *pages, summary,
            overlay]


def _files(options, files):
    return [file for file, _ in series_slices(options.input, options.series, files)]
