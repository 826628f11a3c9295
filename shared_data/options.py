"""A dataclass as a command line: a field is an option, its type the parser, the comment behind it the help text."""
import argparse
import ast
import difflib
import inspect
import io
import os
import sys
import textwrap
import tokenize
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NoReturn

from shared_data.errors import InputError
from shared_data.named_types import Dataclass, Values

Steps = Mapping[str, type[Dataclass]]  # {script: the class of its options}


def given_options(config_class: type[Dataclass], argv: Sequence[str] | None = None,
                  description: str | None = None, steps: Steps | None = None) -> Values:
    """The options that were given on the command line, and only these, as {field: value}.

    `-` and `_` in names are alike. steps: {script: the class of its options}; an option that belongs to another script
    is refused with that script's name. Raises InputError for unknown options and values that do not fit.
    """
    parser = _Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.steps = steps or {}
    comments, types_ = _comments(config_class), typing.get_type_hints(config_class)
    for field in fields(config_class):
        required = field.default is MISSING
        default = "" if required or field.default is None else f" [{shown(field.default)}]"
        parser.add_argument("--" + field.name.replace("_", "-"), required=required,
                            help=(comments.get(field.name, "") + default).replace("%", "%%"),
                            **_argument(types_[field.name]))
    values = vars(parser.parse_args(_with_dashes(argv)))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


class _Parser(argparse.ArgumentParser):
    steps: Steps = types.MappingProxyType({})

    def error(self, message: str) -> NoReturn:
        valid = [option for option in self._option_string_actions if option.startswith("--")]
        if message.startswith("unrecognized arguments: "):
            words = message.split()[2:]
            unknown = [_with_hint(word, valid, self.steps) for word in words if word.startswith("--")] or words[:1]
            message = f"unknown option {', '.join(unknown)}. Valid: {' '.join(valid)}"
        raise InputError(message)


def _with_hint(unknown, valid, steps):
    name = unknown.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
    if owners := [script for script, options in steps.items() if name in {field.name for field in fields(options)}]:
        return f"{unknown} (a setting of {' and '.join(owners)})"
    close = difflib.get_close_matches(unknown.split("=")[0], valid, 1)
    return f"{unknown} (did you mean {close[0]}?)" if close else unknown


def _argument(kind):
    """What `add_argument` takes for bool, Literal, tuple (`tuple[X, ...]`: one or more), `X | None` and callables."""
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
    """An absolute path, which is still right when a later command runs in another folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path")
    return Path(os.path.expanduser(text)).absolute()


def _comments(config_class):
    """{field: the comment behind it} from the source of the class and its parents; whole-line comments right below
    continue it."""
    found = {}
    for parent in reversed(config_class.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(parent))
        ends = {node.end_lineno: node.target.id for definition in ast.parse(source).body
                if isinstance(definition, ast.ClassDef) for node in definition.body
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
        name, last, lines = None, 0, source.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type != tokenize.COMMENT:
                continue
            line, text = token.start[0], token.string.lstrip("#").strip()
            if line in ends:
                name, found[ends[line]] = ends[line], text
            elif name and line == last + 1 and lines[line - 1].lstrip().startswith("#"):
                found[name] += f" {text}"
            else:
                name = None
            last = line
    return found


def _with_dashes(argv):
    def dashed(word):
        name, equals, value = word.partition("=")
        return name.replace("_", "-") + equals + value if name.startswith("--") else word

    return [dashed(word) for word in (sys.argv[1:] if argv is None else argv)]


def shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
