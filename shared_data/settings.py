"""Settings as frozen dataclasses: the file to edit, the command line and the record beside the results in one."""
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
    """Where loops over cases run; the number of processes is a setting of its own."""

    scheduler: str | None = None  # Dask scheduler of a cluster, as tcp://host:8786; unset: processes of this machine
    worker_memory_gb: float = 0.0  # memory at which one of these processes is ended; 0: its share of the machine's


class Machines(Protocol):
    """Settings that say how many processes share a training."""

    @property
    def devices(self) -> int: ...

    @property
    def num_nodes(self) -> int: ...


class RunSettings(Dataclass, Protocol):
    """Settings that name the folders of a training."""

    @property
    def run_dir(self) -> Path: ...

    @property
    def prepared_dir(self) -> Path: ...


def parse_options(config_class: type[Settings], argv: Sequence[str] | None = None, description: str | None = None,
                  steps: Steps | None = None) -> Settings:
    """The command line as an instance of `config_class`; steps: as for `given_options`. Raises InputError."""
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
    """Raise ValueError unless the condition `holds`: "--<name> <value> <what>.", where `what` begins with "must"."""
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
    """Write the settings to `path`, or if it exists, check that they agree with those kept there.

    part: write only the fields of this class, which `config` inherits from. Raises InputError, naming the fields, for
    other values of the `fixed` settings (None: of any), or of the `constants` {name: value}, those of the code that
    shape what is written.
    """
    if not Path(path).exists():
        settings = {name: getattr(config, name) for name in names_of(part or type(config))}
        write_json(path, {**settings, **({CONSTANTS: constants} if constants else {})})
        return
    kept = load_config(type(config), path)
    changed = [name for name in (fixed or vars(config)) if getattr(kept, name) != getattr(config, name)]
    differences = [_differences(kept, config, changed), _other_constants(read_json(path).get(CONSTANTS), constants)]
    if any(differences):
        raise InputError(f"{path}: made with other settings: {', '.join(filter(None, differences))}. Use the same, or "
                         "another folder.")


def note_constants(recorded: Values | None, constants: Values | None, path: StrPath) -> None:
    """Print which of the code's `constants` differ from those `recorded` in a checkpoint, if it records them."""
    if differences := _other_constants(recorded, constants):
        print(f"note: {path}: trained with {differences}; this version prepares its input differently.")


def note_differences(kept: object, used: object, names: Iterable[str], path: StrPath, who: str = "the network") -> None:
    """Print which of the settings `names` differ between those that cases were prepared with (kept, from `path`) and
    those `used` by `who`."""
    differing = [f"{name} {shown(getattr(kept, name))} ({who}: {shown(getattr(used, name))})"
                 for name in names if getattr(kept, name) != getattr(used, name)]
    if differing:
        print(f"note: {path}: prepared with {', '.join(differing)}.")


def to_plain(config: Dataclass) -> Values:
    """The settings as plain JSON values, the only kind that a checkpoint holds."""
    return {name: str(value) if hasattr(value, "joinpath") else value for name, value in asdict(config).items()}


def load_config(config_class: type[Settings], path: StrPath, changes: Values | None = None) -> Settings:
    """Settings written by `keep_config`, with `changes` on top."""
    return config_from_dict(config_class, read_json(path), path, changes)


def config_from_dict(config_class: type[Settings], values: Values, source: StrPath,
                     changes: Values | None = None) -> Settings:
    """Settings from plain JSON values, with `changes` on top; `source` names them in errors.

    A missing value is taken from UNRECORDED of the class (what applied before it was a setting), else is the default.
    Raises InputError for unknown names and impossible values.
    """
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
    """`given`, completed by the settings that preparation kept at `path`.

    Those called `names` must be the same in both, otherwise InputError is raised; those called `defaults` apply unless
    given.
    """
    if not path.exists():
        raise InputError(f"{path.parent}: no prepared cases in it. Prepare the cohort first, or name its folder with "
                         "--prepared-dir.")
    kept = load_config(config_class, path)
    differing = [f"{name} {shown(getattr(kept, name))} (now {shown(given[name])})"
                 for name in names if name in given and given[name] != getattr(kept, name)]
    if differing:
        raise InputError(f"{path}: prepared with {', '.join(differing)}. Leave them out, or prepare another folder.")
    below, above = ({name: getattr(kept, name) for name in group} for group in (defaults, names))
    return {**below, **given, **above}


def with_changes(config: Settings, changes: Values) -> Settings:
    """`config` with `changes`. Raises InputError for values it refuses."""
    return build(partial(replace, config), changes)


def changed_config(config: Settings, changes: Values, free: Collection[str], path: StrPath) -> Settings:
    """`config` of an earlier run with `changes`. Raises InputError if any but the `free` settings would change."""
    changed = with_changes(config, changes)
    locked = [name for name in changes if name not in free and getattr(config, name) != getattr(changed, name)]
    if locked:
        raise InputError(f"{path}: made with other settings: {_differences(config, changed, locked)}. "
                         "Leave them out, or start another run folder.")
    return changed


def settings_of_run(config_class: type[Run], given: Values, last: StrPath, free: Collection[str],
                    read_checkpoint: Callable[[Path], Values], prepared: Collection[str] = (),
                    defaults: Collection[str] = ()) -> Run:
    """The settings of a training run: the options `given`, or, with `resume`, those the run was started with.

    last: name of its last checkpoint, below `run_dir`; read_checkpoint(path): the settings in one, as plain values;
    free: settings that may change on resuming; prepared, defaults: settings that preparation decides, always or unless
    given (`names` and `defaults` of `as_prepared`). Raises InputError when there is nothing to resume, and when there
    is but `resume` was not given.
    """
    if given.get("resume"):
        own = {name: value for name, value in given.items() if name not in (*prepared, *defaults)}
        run_dir = build(config_class, own).run_dir  # may have been moved since
        last = run_dir / last
        if not last.exists():
            raise InputError(f"{last.parent}: no {last.name} to go on from. Leave out --resume.")
        started_with = config_from_dict(config_class, read_checkpoint(last), last)
        config = changed_config(started_with, {**given, "run_dir": run_dir}, free, last)
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
    """Raise InputError when the cases were prepared differently from those that the resumed run began with."""
    path = config.prepared_dir / "config.json"
    if names and path.exists():
        kept = load_config(type(config), path)
        if changed := [name for name in names if getattr(kept, name) != getattr(config, name)]:
            raise InputError(f"{path}: not prepared as when the run began: {_differences(config, kept, changed)}. "
                             "Name the folder it began with, or start another run.")


def set_options(options: object, *names: str) -> Values:
    """{name: value} of the named options that are not None; these override a checkpoint's settings."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def check_started(config: Machines) -> None:
    """Raise InputError when torchrun started a different number of processes than the settings say."""
    started, wanted = int(os.environ.get("WORLD_SIZE", "1")), config.devices * config.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started != wanted:
        raise InputError(f"torchrun started {started} processes, --devices {config.devices} --num-nodes "
                         f"{config.num_nodes} are {wanted}. Make them agree.")


def device_there(name: str, available: Mapping[str, bool]) -> str:
    """`name`, or for "auto" the first available device; available: {device: whether this machine has it}.

    Raises InputError for one that this machine does not have.
    """
    devices = [device for device, present in available.items() if present]
    if name != "auto" and name not in devices:
        raise InputError(f"--device {name}: none on this machine. Here: {', '.join(devices)}.")
    return devices[0] if name == "auto" else name


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
        raise ValueError(f"{value!r} is not of type {kind.__name__}")
    return kind(value)
