"""One frozen dataclass is the settings file, the command line and the record beside the results."""
import json
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from shared_data.errors import InputError
from shared_data.files import read_json, write_json
from shared_data.named_types import Dataclass, StrPath, Values
from shared_data.options import Steps, given_options, shown

Settings = TypeVar("Settings", bound=Dataclass)
Run = TypeVar("Run", bound="RunSettings")
Built = TypeVar("Built")

Device = typing.Literal["auto", "cpu", "cuda", "mps"]
Precision = typing.Literal["auto", "32-true", "bf16-mixed", "16-mixed"]  # Lightning Fabric's names

CLUSTER = ("scheduler", "worker_memory_gb")
CONSTANTS = "constants"  # key of a settings file


@dataclass(frozen=True)
class Cluster:
    """Where loops over cases run, beside the number of processes."""

    scheduler: str | None = None  # Dask scheduler of a cluster, as tcp://host:8786; unset: processes of this machine
    worker_memory_gb: float = 0.0  # what each of these may take before it is ended; 0: its share


class Machines(Protocol):
    """What settings of a training say of the processes that share it."""

    @property
    def devices(self) -> int: ...

    @property
    def num_nodes(self) -> int: ...


class RunSettings(Dataclass, Protocol):
    """What settings of a training say of its folders."""

    @property
    def run_dir(self) -> Path: ...

    @property
    def prepared_dir(self) -> Path: ...


def parse_options(config_class: type[Settings], argv: Sequence[str] | None = None, description: str | None = None,
                  steps: Steps | None = None) -> Settings:
    """The command line as an instance of `config_class`; steps: as for `given_options`."""
    return build(config_class, given_options(config_class, argv, description, steps))


def build(config_class: Callable[..., Built], values: Values) -> Built:
    """`config_class(**values)`; a value it refuses (ValueError), or that is not finite, becomes an InputError."""
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"--{name.replace('_', '-')} {number} must be a finite number.")
    try:
        return config_class(**values)
    except ValueError as error:
        raise InputError(str(error)) from error


def require(config: object, name: str, holds: bool, what: str) -> None:
    """Raise ValueError with the option's name, its value and `what` it "must be", unless it `holds`."""
    if not holds:
        raise ValueError(f"--{name.replace('_', '-')} {getattr(config, name)} {what}.")


def at_least(config: object, lowest: float, *names: str) -> None:
    for name in names:
        values = getattr(config, name)
        lowest_given = min(values) if isinstance(values, tuple) else values
        require(config, name, lowest_given >= lowest, f"must be at least {lowest}")


def names_of(config_class: type[Dataclass]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(config_class))


def keep_config(config: Dataclass, path: StrPath, fixed: Iterable[str] | None = None,
                constants: Values | None = None, part: type[Dataclass] | None = None) -> None:
    """Write the settings to `path` once, or a `part` of them, a class that `config` inherits from; raise, naming the
    fields, when a later run differs in one of the `fixed` (None: in any), or in one of the code's `constants`,
    {name: value}, that shape what is written."""
    if not Path(path).exists():
        settings = {name: getattr(config, name) for name in names_of(part or type(config))}
        write_json(path, {**settings, **({CONSTANTS: constants} if constants else {})})
        return
    kept = load_config(type(config), path)
    changed = [name for name in (fixed or vars(config)) if getattr(kept, name) != getattr(config, name)]
    said = [_differences(kept, config, changed), _other_constants(read_json(path).get(CONSTANTS), constants)]
    if any(said):
        raise InputError(f"{path}: made with other settings: {', '.join(filter(None, said))}. Use the same, or another "
                         "folder.")


def note_constants(recorded: Values | None, constants: Values | None, path: StrPath) -> None:
    """Say which of the code's `constants` are no longer those `recorded` in a checkpoint; what it does not record
    passes."""
    if said := _other_constants(recorded, constants):
        print(f"note: {path}: trained with {said}; this code shows it something else.")


def note_differences(kept: object, used: object, names: Iterable[str], path: StrPath, who: str = "the network") -> None:
    """Say which of the settings `names` cases were prepared with (kept, from `path`) are others than in `used`."""
    if other := [name for name in names if getattr(kept, name) != getattr(used, name)]:
        print(f"note: {path}: prepared with " + ", ".join(
            f"{name} {shown(getattr(kept, name))} ({who}: {shown(getattr(used, name))})" for name in other) + ".")


def to_plain(config: Dataclass) -> Values:
    """The settings as JSON-like values: a checkpoint holds no classes."""
    return {name: str(value) if hasattr(value, "joinpath") else value for name, value in asdict(config).items()}


def load_config(config_class: type[Settings], path: StrPath, changes: Values | None = None) -> Settings:
    """Settings written by `keep_config`, with `changes` on top."""
    return config_from_dict(config_class, read_json(path), path, changes)


def config_from_dict(config_class: type[Settings], values: Values, source: StrPath,
                     changes: Values | None = None) -> Settings:
    """Settings from plain JSON values (`source` names them in errors), with `changes` on top. What they lack has its
    default, or its value in the class's UNRECORDED: what was meant before it could be set."""
    types_ = typing.get_type_hints(config_class)
    unknown = sorted(set(values) - {*types_, CONSTANTS}) if isinstance(values, dict) else ["?"]
    if unknown:
        raise InputError(f"{source}: not settings of {config_class.__module__}: {', '.join(unknown)}.")
    values = {**getattr(config_class, "UNRECORDED", {}), **values}
    values.pop(CONSTANTS, None)
    try:
        values = {name: _from_json(value, types_[name]) for name, value in values.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: impossible value ({error}).") from error
    return build(config_class, {**values, **(changes or {})})


def as_prepared(config_class: type[Dataclass], given: Values, path: Path, names: Iterable[str],
                defaults: Iterable[str] = ()) -> Values:
    """`given` with the settings `names` as preparation kept them at `path`: later steps must know of them. What
    preparation kept of the settings `defaults` gives way to `given`.

    Raises InputError where `given` says otherwise of `names`.
    """
    if not path.exists():
        raise InputError(f"{path.parent}: no prepared cases in it. Prepare the cohort first, or name its folder with "
                         "--prepared-dir.")
    kept = load_config(config_class, path)
    other = [name for name in names if name in given and given[name] != getattr(kept, name)]
    if other:
        raise InputError(f"{path}: prepared with " + ", ".join(
            f"{name} {shown(getattr(kept, name))} (now {shown(given[name])})" for name in other)
            + ". Leave them out, or prepare another folder.")
    before, after = ({name: getattr(kept, name) for name in group} for group in (defaults, names))
    return {**before, **given, **after}


def with_changes(config: Settings, changes: Values) -> Settings:
    """`config` with `changes`; what it refuses becomes an InputError."""
    return build(partial(replace, config), changes)


def changed_config(config: Settings, changes: Values, free: Collection[str], path: StrPath) -> Settings:
    """`config` of an earlier run with `changes`, of which only the `free` may differ from it."""
    other = with_changes(config, changes)
    locked = [name for name in changes if name not in free and getattr(config, name) != getattr(other, name)]
    if locked:
        raise InputError(f"{path}: made with other settings: {_differences(config, other, locked)}. "
                         "Leave them out, or start another run folder.")
    return other


def settings_of_run(config_class: type[Run], given: Values, last: StrPath, free: Collection[str],
                    kept: Callable[[Path], Values], prepared: Collection[str] = (),
                    defaults: Collection[str] = ()) -> Run:
    """The settings of a training run: the options `given`, or, with `resume`, as the run keeps them.

    last: its checkpoint, below `run_dir`; kept(path): the settings in that, as plain values; free: names of those that
    may change on the way; prepared: names of those taken over from how the cases were prepared, defaults: of those
    taken over unless given. Raises InputError when there is nothing to go on from, and when there is and nobody said
    so.
    """
    if given.get("resume"):
        apart = {name: value for name, value in given.items() if name not in (*prepared, *defaults)}
        run_dir = build(config_class, apart).run_dir  # may have been moved since
        last = run_dir / last
        if not last.exists():
            raise InputError(f"{last.parent}: no {last.name} to go on from. Leave out --resume.")
        config = changed_config(config_from_dict(config_class, kept(last), last), {**given, "run_dir": run_dir}, free,
                                last)
        _check_prepared(config, prepared)
        return config
    if prepared:
        path = given.get("prepared_dir", getattr(config_class, "prepared_dir", Path())) / "config.json"
        given = as_prepared(config_class, given, path, prepared, defaults)
    config = build(config_class, given)
    last = config.run_dir / last
    if last.exists():
        raise InputError(f"{last.parent}: holds a run already. Add --resume to go on, or name another --run-dir.")
    return config


def _check_prepared(config, names):
    """Raise InputError when the cases that a run goes on with were prepared in another way than those it began with."""
    path = config.prepared_dir / "config.json"
    if names and path.exists():
        kept = load_config(type(config), path)
        if other := [name for name in names if getattr(kept, name) != getattr(config, name)]:
            raise InputError(f"{path}: not prepared as when the run began: {_differences(config, kept, other)}. "
                             "Name that folder, or start another run.")


def set_options(options: object, *names: str) -> Values:
    """{name: value} of the options named that are not None: what goes on top of a checkpoint's settings."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def check_started(config: Machines) -> None:
    """Raise InputError when torchrun started another number of processes than the settings say."""
    started, wanted = int(os.environ.get("WORLD_SIZE", "1")), config.devices * config.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started != wanted:
        raise InputError(f"torchrun started {started} processes, --devices {config.devices} --num-nodes "
                         f"{config.num_nodes} are {wanted}. Let them agree.")


def device_there(name: str, there: Mapping[str, bool]) -> str:
    """`name`, or for "auto" the first device of `there`, {name: whether this machine has it}. Raises InputError when
    it has none."""
    here = [device for device, available in there.items() if available]
    if name != "auto" and name not in here:
        raise InputError(f"--device {name}: none on this machine. Here: {', '.join(here)}.")
    return here[0] if name == "auto" else name


def _other_constants(recorded, constants):
    now = json.loads(json.dumps(constants or {}))
    return ", ".join(f"{name} {shown(value)} (now {shown(now[name])})" for name, value in (recorded or {}).items()
                     if name in now and now[name] != value)


def _differences(kept, new, names):
    return ", ".join(f"{name} {shown(getattr(kept, name))} (now {shown(getattr(new, name))})" for name in names)


def _from_json(value, kind):
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if value is None else _from_json(value, parts[0])
    if typing.get_origin(kind) is typing.Literal:
        if value not in parts:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, parts))}")
        return value
    if parts:
        parts = (parts[0],) * len(value) if Ellipsis in parts else parts
        return tuple(_from_json(item, part) for item, part in zip(value, parts, strict=True))
    if kind in (bool, int) and type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return kind(value)
