"""The probability cut and smallest component that crossval.py chose on the folds' held-out patients, on request in
place of the authors'."""
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from shared_data.errors import InputError
from shared_data.files import read_json
from shared_data.settings import with_changes
from shared_results.scoring import stamp_of

NAME = "operating_point.json"
AVERAGED = ("tta", "mirror")  # options that average over copies of a CT: a cut belongs to how they were set


@dataclass(frozen=True, kw_only=True)
class OperatingOptions:
    """Of predict.py and test.py."""

    operating_point: Path | None = None  # operating_point.json of crossval.py: what it chose on the folds' own patients


@dataclass(frozen=True, kw_only=True)
class NodePoint(OperatingOptions):
    """Of projects that find nodes in a CT."""

    smallest_ml: float = 0.0  # components smaller than this are left out, ml


@dataclass(frozen=True, kw_only=True)
class OrganPoint(OperatingOptions):
    """Of projects that segment organs."""

    smallest_ml: tuple[float, ...] | None = None  # islands of an organ smaller than this are left out, ml; its largest
    # component stays; one number, or one for each organ


Options = TypeVar("Options", bound=OperatingOptions)


def with_operating_point(options: Options, method: str) -> Options:
    """The options with the settings that `operating_point` holds; raises InputError when it is another method's, or
    one of these settings is given, too."""
    if options.operating_point is None:
        return options
    settings = read_point(options.operating_point, method, options)["settings"]
    unset = {field.name: field.default for field in fields(options)}
    for name in settings:
        if name not in unset:
            raise InputError(f"{options.operating_point}: {name} is no option here. Damaged? Run crossval.py again.")
        if getattr(options, name) != unset[name]:
            raise InputError(f"--{name.replace('_', '-')} and --operating-point: both say it. Leave one out.")
    return with_changes(options, settings)


def read_point(path: Path, method: str, options: OperatingOptions) -> dict[str, Any]:
    """What crossval.py wrote; says so where it was chosen with other copies of the CT averaged than now."""
    if path.is_dir():
        raise InputError(f"{path}: a folder. Name the file, such as {path / 'crossval' / NAME}.")
    point = _read_once(path, stamp_of([path]))
    if not (isinstance(point, dict) and isinstance(point.get("settings"), dict) and "method" in point):
        raise InputError(f"{path}: no operating point. Name the {NAME} of crossval.py.")
    if point["method"] != method:
        raise InputError(f"{path}: chosen for {point['method']}, this is {method}. Name another.")
    for name in AVERAGED:
        if name in point and point[name] != getattr(options, name, point[name]):
            print(f"note: {path}: chosen {'with' if point[name] else 'without'} --{name}")
    return point


@lru_cache(maxsize=1)
def _read_once(path, stamp):
    """The same for every case of a run, unless `stamp_of` the file has changed."""
    return read_json(path)


def smallest_of_each(options: OrganPoint, organs: Sequence[str], method: str) -> tuple[float, ...]:
    """The smallest island (ml) of each organ, of `smallest_ml` or the operating point; raises InputError when they do
    not fit the organs."""
    given = options.smallest_ml
    if options.operating_point:
        if given:
            raise InputError("--smallest-ml and --operating-point: both say it. Leave one out.")
        chosen = read_point(options.operating_point, method, options)["settings"].get("smallest_ml", {})
        if unknown := [name for name in chosen if name not in organs]:
            raise InputError(f"{options.operating_point}: chosen for {', '.join(unknown)}, which the network does not "
                             "know. Name the one of its own folds.")
        return tuple(float(chosen.get(name, 0)) for name in organs)
    if given is None or len(given) == 1:
        return (given or (0.0,)) * len(organs)
    if len(given) != len(organs):
        raise InputError(f"--smallest-ml: {len(given)} numbers. Give one, or one for each of {', '.join(organs)}.")
    return given
