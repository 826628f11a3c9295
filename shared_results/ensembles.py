"""The members of an ensemble: which checkpoints they are, and whether they fit together."""
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared_data.errors import InputError
from shared_data.folds import check_unseen, natural_sort
from shared_data.named_types import StrPath
from shared_data.volume import without_suffix

Options = TypeVar("Options", bound="EnsembleOptions")


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """Options of predict.py and test.py, beside `checkpoint`, a tuple of paths."""

    ensemble: Path | None = None  # folder of the folds' runs: the best checkpoint of each, instead of --checkpoint

    if TYPE_CHECKING:  # every script has its own default
        checkpoint: tuple[Path, ...] | None = None


def with_members(options: Options, find: Callable[[Path], Iterable[Path]]) -> Options:
    """The options with `checkpoint` in place of `ensemble`; find(folder) gives the members' checkpoints."""
    if options.ensemble is None:
        return options
    return replace(options, checkpoint=members_of(options, find), ensemble=None)


def members_of(options: EnsembleOptions, find: Callable[[Path], Iterable[Path]]) -> tuple[Path, ...]:
    """The checkpoints that `ensemble` stands for. Raises InputError when --checkpoint is given as well."""
    if options.checkpoint != type(options).checkpoint:
        raise InputError("--ensemble and --checkpoint: both name the networks. Leave one out.")
    assert options.ensemble is not None
    return tuple(find(options.ensemble))


def find_members(folder: Path, *patterns: str) -> list[Path]:
    """The checkpoints below a folder, in natural order, by the first pattern that any match. Raises InputError if none
    do."""
    for pattern in patterns:
        names = natural_sort(str(path.relative_to(folder)) for path in folder.glob(pattern))
        if names:
            return [folder / name for name in names]
    raise InputError(f"{folder}: no {patterns[0]} in it. Train the folds with crossval.py, or name --checkpoint.")


def check_alike(paths: Sequence[StrPath], configs: Sequence[object], names: Iterable[str]) -> None:
    """Raise InputError when members differ in one of the settings `names`."""
    for path, config in zip(paths, configs):
        for name in names:
            own, first = getattr(config, name), getattr(configs[0], name)
            if own != first:
                raise InputError(f"{path}: {name} {own} differs from {paths[0]}'s {first}. The members of an ensemble "
                                 "must agree on it.")


def check_members_unseen(paths: Iterable[StrPath], cases: Iterable[str],
                         trained_on: Callable[[Any], Iterable[str]]) -> None:
    """Raise InputError when a member is to be scored on cases that it was trained on; trained_on(path): the names of
    those."""
    for path in paths:
        check_unseen(cases, trained_on(path), path)


def uncertainty_path(output: StrPath) -> Path:
    """Path of the map of disagreement: beside the labels, in their format."""
    stem = without_suffix(output)
    return Path(f"{stem}_uncertainty{str(output).removeprefix(stem)}")


def as_fact(paths: Sequence[StrPath]) -> dict[str, Any]:
    """The networks in a JSON file: {"checkpoint": path} for one, {"checkpoints": paths} for several."""
    return {"checkpoint": paths[0]} if len(paths) == 1 else {"checkpoints": list(paths)}


def in_words(paths: Sequence[StrPath]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} members: {', '.join(map(str, paths))}"
