"""One frozen dataclass is the settings file, the command line and the record beside the results."""
import argparse
import difflib
import inspect
import math
import os
import re
import sys
import types
import typing
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from shared_data.errors import InputError
from shared_data.files import read_json, write_json

Device = typing.Literal["auto", "cpu", "cuda", "mps"]
Precision = typing.Literal["auto", "32-true", "bf16-mixed", "16-mixed"]  # Lightning Fabric's names

CLUSTER = ("scheduler", "worker_memory_gb")


@dataclass(frozen=True)
class Cluster:
    """Where loops over cases run, beside the number of processes."""

    scheduler: str | None = None  # Dask scheduler of a cluster, as tcp://host:8786; unset: processes of this machine
    worker_memory_gb: float = 0.0  # what each of these may take before it is ended; 0: its share


def parse_options(config_class, argv=None, description=None):
    """The command line as an instance of `config_class`."""
    return build(config_class, given_options(config_class, argv, description))


def given_options(config_class, argv=None, description=None):
    """Only the options that stand on the command line, as {field: value}.

    Every field is an option: its type makes the parser, the comment behind it the help text.
    `-` and `_` in names are alike.
    """
    parser = _Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    comments, types_ = _comments(config_class), typing.get_type_hints(config_class)
    for field in fields(config_class):
        required = field.default is MISSING
        default = "" if required or field.default is None else f" [{_shown(field.default)}]"
        parser.add_argument("--" + field.name.replace("_", "-"), required=required,
                            help=(comments.get(field.name, "") + default).replace("%", "%%"),
                            **_argument(types_[field.name]))
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    values = vars(parser.parse_args(_with_dashes(argv)))
    values.pop("debug", None)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def build(config_class, values):
    """`config_class(**values)`; a value it refuses (ValueError), or that is not finite, becomes an InputError."""
    for name, value in values.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise InputError(f"--{name.replace('_', '-')} {number} must be a finite number.")
    try:
        return config_class(**values)
    except ValueError as error:
        raise InputError(str(error)) from error


def require(config, name, holds, what):
    """Raise ValueError with the option's name, its value and `what` it "must be", unless it `holds`."""
    if not holds:
        raise ValueError(f"--{name.replace('_', '-')} {getattr(config, name)} {what}.")


def at_least(config, lowest, *names):
    for name in names:
        values = getattr(config, name)
        lowest_given = min(values) if isinstance(values, tuple) else values
        require(config, name, lowest_given >= lowest, f"must be at least {lowest}")


def keep_config(config, path, fixed=None):
    """Write the settings to `path` once; raise, naming the fields, when a later run differs in one of the `fixed`
    (None: in any)."""
    if not Path(path).exists():
        write_json(path, asdict(config))
        return
    kept = load_config(type(config), path)
    changed = [name for name in (fixed or vars(config)) if getattr(kept, name) != getattr(config, name)]
    if changed:
        raise InputError(f"{path}: made with other settings: " + _differences(kept, config, changed)
                         + ". Use the same, or another folder.")


def to_plain(config):
    """The settings as JSON-like values: a checkpoint holds no classes."""
    return {name: str(value) if hasattr(value, "joinpath") else value for name, value in asdict(config).items()}


def load_config(config_class, path, changes=None):
    """Settings written by `keep_config`, with `changes` on top."""
    return config_from_dict(config_class, read_json(path), path, changes)


def config_from_dict(config_class, values, source, changes=None):
    """Settings from plain JSON values (`source` names them in errors), with `changes` on top."""
    types_ = typing.get_type_hints(config_class)
    unknown = sorted(set(values) - set(types_)) if isinstance(values, dict) else ["?"]
    if unknown:
        raise InputError(f"{source}: not settings of {config_class.__module__}: {', '.join(unknown)}.")
    try:
        values = {name: _from_json(value, types_[name]) for name, value in values.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: impossible value ({error}).") from error
    return build(config_class, {**values, **(changes or {})})


def as_prepared(config_class, given, path, names, defaults=()):
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
            f"{name} {_shown(getattr(kept, name))} (now {_shown(given[name])})" for name in other)
            + ". Leave them out, or prepare another folder.")
    before, after = ({name: getattr(kept, name) for name in group} for group in (defaults, names))
    return {**before, **given, **after}


def with_changes(config, changes):
    """`config` with `changes`; what it refuses becomes an InputError."""
    return build(partial(replace, config), changes)


def changed_config(config, changes, free, path):
    """`config` of an earlier run with `changes`, of which only the `free` may differ from it."""
    other = with_changes(config, changes)
    locked = [name for name in changes if name not in free and getattr(config, name) != getattr(other, name)]
    if locked:
        raise InputError(f"{path}: made with other settings: {_differences(config, other, locked)}. "
                         "Leave them out, or start another run folder.")
    return other


def settings_of_run(config_class, given, last, free, kept, prepared=(), defaults=()):
    """The settings of a training run: the options `given`, or, with `resume`, as the run keeps them.

    last: its checkpoint, below `run_dir`; kept(path): the settings in that, as plain values; free: names of those that
    may change on the way; prepared: names of those taken over from how the cases were prepared, defaults: of those
    taken over unless given. Raises InputError when there is nothing to go on from, and when there is and nobody said
    so.
    """
    config = build(config_class, given)
    last = config.run_dir / last
    if config.resume:
        if not last.exists():
            raise InputError(f"{last.parent}: no {last.name} to go on from. Leave out --resume.")
        # A run folder may have been moved since.
        return changed_config(config_from_dict(config_class, kept(last), last), {**given, "run_dir": config.run_dir},
                              free, last)
    if last.exists():
        raise InputError(f"{last.parent}: holds a run already. Add --resume to go on, or name another --run-dir.")
    if prepared:
        given = as_prepared(config_class, given, config.prepared_dir / "config.json", prepared, defaults)
    return build(config_class, given)


def set_options(options, *names):
    """{name: value} of the options named that are not None: what goes on top of a checkpoint's settings."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def check_started(config):
    """Raise InputError when torchrun started another number of processes than the settings say."""
    started, wanted = int(os.environ.get("WORLD_SIZE", 1)), config.devices * config.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ and started != wanted:
        raise InputError(f"torchrun started {started} processes, --devices {config.devices} --num-nodes "
                         f"{config.num_nodes} are {wanted}. Let them agree.")


def device_there(name, there):
    """`name`, or for "auto" the first device of `there`, {name: whether this machine has it}. Raises InputError when
    it has none."""
    here = [device for device, available in there.items() if available]
    if name != "auto" and name not in here:
        raise InputError(f"--device {name}: none on this machine. Here: {', '.join(here)}.")
    return here[0] if name == "auto" else name


def _differences(kept, new, names):
    return ", ".join(f"{name} {_shown(getattr(kept, name))} (now {_shown(getattr(new, name))})" for name in names)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        valid = [option for option in self._option_string_actions if option.startswith("--")]
        if message.startswith("unrecognized arguments: "):
            words = message.split()[2:]
            unknown = [_with_hint(word, valid) for word in words if word.startswith("--")] or words[:1]
            message = f"unknown option {', '.join(unknown)}. Valid: {' '.join(valid)}"
        raise InputError(message)


def _with_hint(unknown, valid):
    close = difflib.get_close_matches(unknown.split("=")[0], valid, 1)
    return f"{unknown} (did you mean {close[0]}?)" if close else unknown


def _argument(kind):
    """argparse's keywords for a type: bool, Literal, tuple (`tuple[X, ...]`: one or more), `X | None` or callable."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _argument(next(part for part in parts if part is not type(None)))
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is typing.Literal:
        return {"choices": parts, "type": type(parts[0])}
    if parts:
        return {**_argument(parts[0]), "nargs": "+" if Ellipsis in parts else len(parts)}
    return {"type": _absolute if kind is Path else kind, "metavar": kind.__name__.upper()}


def _absolute(text):
    """A path that still holds when a later command runs in another folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(os.path.expanduser(text)).absolute()


def _from_json(value, kind):
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return None if value is None else _from_json(value, parts[0])
    if typing.get_origin(kind) is typing.Literal:
        if value not in parts:
            raise ValueError(f"{value!r} is none of {', '.join(map(repr, parts))}")
        return value
    if parts:
        parts = [parts[0]] * len(value) if Ellipsis in parts else parts
        return tuple(_from_json(item, part) for item, part in zip(value, parts, strict=True))
    if kind in (bool, int) and type(value) is not kind:
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return kind(value)


def _comments(config_class):
    """{field: the comment behind it} from the source of the class and of its parents."""
    found = {}
    for parent in reversed(config_class.__mro__[:-1]):
        # A field may go on in lines that are further in.
        found |= dict(re.findall(r"^ {4}(\w+):.*?(?:\n {5,}.*)*?\s#\s(.+)$", inspect.getsource(parent), re.MULTILINE))
    return found


def _with_dashes(argv):
    def dashed(word):
        name, equals, value = word.partition("=")
        return name.replace("_", "-") + equals + value if name.startswith("--") else word

    return [dashed(word) for word in (sys.argv[1:] if argv is None else argv)]


def _shown(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
