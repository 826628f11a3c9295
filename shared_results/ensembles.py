"""The networks that are asked together: which they are, and whether they fit each other."""
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
    """Of predict.py and test.py, beside `checkpoint`, a tuple of paths."""

    ensemble: Path | None = None  # folder with the runs of the folds: the best of each, in place of --checkpoint

    if TYPE_CHECKING:  # each script has a default of its own
        checkpoint: tuple[Path, ...] | None = None


def with_members(options: Options, find: Callable[[Path], Iterable[Path]]) -> Options:
    """The options with `checkpoint` in place of `ensemble`; find(folder) gives the members' checkpoints."""
    if options.ensemble is None:
        return options
    return replace(options, checkpoint=members_of(options, find), ensemble=None)


def members_of(options: EnsembleOptions, find: Callable[[Path], Iterable[Path]]) -> tuple[Path, ...]:
    """The checkpoints that `ensemble` stands for. Raises InputError when others than the default are named, too."""
    if options.checkpoint != type(options).checkpoint:
        raise InputError("--ensemble and --checkpoint: both name the networks. Leave one out.")
    assert options.ensemble is not None
    return tuple(find(options.ensemble))


def find_members(folder: Path, *patterns: str) -> list[Path]:
    """The checkpoints below a folder by the first of the patterns that fits any, in natural order. Raises InputError
    for none."""
    for pattern in patterns:
        if found := [folder / name for name in natural_sort(str(path.relative_to(folder))
                                                            for path in folder.glob(pattern))]:
            return found
    raise InputError(f"{folder}: no {patterns[0]} in it. Train the folds with crossval.py, or name --checkpoint.")


def check_alike(paths: Sequence[StrPath], configs: Sequence[object], names: Iterable[str]) -> None:
    """Raise InputError when members differ in one of the settings `names`."""
    for path, config in zip(paths, configs):
        other = [name for name in names if getattr(config, name) != getattr(configs[0], name)]
        if other:
            raise InputError(f"{path}: {other[0]} {getattr(config, other[0])} differs from {paths[0]}'s "
                             f"{getattr(configs[0], other[0])}. Ensembles need the same.")


def check_members_unseen(paths: Iterable[StrPath], cases: Iterable[str],
                         trained_on: Callable[[Any], Iterable[str]]) -> None:
    """Raise InputError when a member has learnt from one of the cases it is to be scored on; trained_on(path): whom it
    has learnt from."""
    for path in paths:
        check_unseen(cases, trained_on(path), path)


def uncertainty_path(output: StrPath) -> Path:
    """Where the map of disagreement lies: beside the labels, in their format."""
    stem = without_suffix(output)
    return Path(f"{stem}_uncertainty{str(output)[len(str(stem)):]}")


def as_fact(paths: Sequence[StrPath]) -> dict[str, Any]:
    """What a JSON file says of the networks: {"checkpoint": the one} or {"checkpoints": all}."""
    return {"checkpoint": paths[0]} if len(paths) == 1 else {"checkpoints": list(paths)}


def in_words(paths: Sequence[StrPath]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} members: {', '.join(map(str, paths))}"
