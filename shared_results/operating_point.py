"""On request, the probability threshold and smallest component that crossval.py chose on the folds' held-out patients,
instead of the authors'."""
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
AVERAGED = ("tta", "mirror")  # options that average over copies of a CT: a threshold is chosen for their values


@dataclass(frozen=True, kw_only=True)
class OperatingOptions:
    """Options of predict.py and test.py."""

    operating_point: Path | None = None  # operating_point.json of crossval.py, chosen on the folds' held-out patients


@dataclass(frozen=True, kw_only=True)
class NodePoint(OperatingOptions):
    """Options of projects that find nodes in a CT."""

    smallest_ml: float = 0.0  # components smaller than this are removed, ml


@dataclass(frozen=True, kw_only=True)
class OrganPoint(OperatingOptions):
    """Options of projects that segment organs."""

    smallest_ml: tuple[float, ...] | None = None  # islands of an organ smaller than this are removed, ml; its
    # largest component stays; one number, or one for each organ


Options = TypeVar("Options", bound=OperatingOptions)


def with_operating_point(options: Options, method: str) -> Options:
    """The options with the settings of their `operating_point`, if any. Raises InputError when it is another method's,
    or when one of its settings is given as an option as well."""
    if options.operating_point is None:
        return options
    settings = read_point(options.operating_point, method, options)["settings"]
    unset = {field.name: field.default for field in fields(options)}
    for name in settings:
        if name not in unset:
            raise InputError(f"{options.operating_point}: {name} is not an option here. Damaged? Rerun crossval.py.")
        if getattr(options, name) != unset[name]:
            raise InputError(f"--{name.replace('_', '-')} and --operating-point: both set it. Leave one out.")
    return with_changes(options, settings)


def read_point(path: Path, method: str, options: OperatingOptions) -> dict[str, Any]:
    """The operating point in a file of crossval.py; prints a note if it was chosen with other options of AVERAGED.

    Raises InputError when it is damaged or another method's.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder. Name the file, such as {path / 'crossval' / NAME}.")
    point = _read_once(path, stamp_of([path]))
    if not (isinstance(point, dict) and isinstance(point.get("settings"), dict) and "method" in point):
        raise InputError(f"{path}: not an operating point. Name the {NAME} of crossval.py.")
    if point["method"] != method:
        raise InputError(f"{path}: chosen for {point['method']}, this is {method}. Name another.")
    for name in AVERAGED:
        if name in point and point[name] != getattr(options, name, point[name]):
            print(f"note: {path}: chosen {'with' if point[name] else 'without'} --{name}")
    return point


@lru_cache(maxsize=1)
def _read_once(path, stamp):
    """read_json(path), kept for all cases of a run until `stamp_of` the file changes."""
    return read_json(path)


def smallest_of_each(options: OrganPoint, organs: Sequence[str], method: str) -> tuple[float, ...]:
    """The smallest island (ml) of each organ, from --smallest-ml or the operating point. Raises InputError when they
    do not fit the organs."""
    smallest_ml = options.smallest_ml
    if options.operating_point:
        if smallest_ml:
            raise InputError("--smallest-ml and --operating-point: both set it. Leave one out.")
        chosen = read_point(options.operating_point, method, options)["settings"].get("smallest_ml", {})
        if unknown := [name for name in chosen if name not in organs]:
            raise InputError(f"{options.operating_point}: chosen for {', '.join(unknown)}, which the network does not "
                             "segment. Name the file from its own folds.")
        return tuple(float(chosen.get(name, 0)) for name in organs)
    if smallest_ml is None or len(smallest_ml) == 1:
        return (smallest_ml or (0.0,)) * len(organs)
    if len(smallest_ml) != len(organs):
        raise InputError(f"--smallest-ml: {len(smallest_ml)} numbers. Give one, or one for each of "
                         f"{', '.join(organs)}.")
    return smallest_ml
