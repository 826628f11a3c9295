"""Small named types, so that a signature says what an array, a tuple or a dict stands for."""
import os
from collections.abc import Callable, Iterable
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

StrPath = str | os.PathLike[str]

# Arrays. Docstrings give their axes; (z, y, x) unless they say otherwise.
Array = NDArray[Any]  # numbers of any kind
Mask = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]  # class ids: label maps, votes
Floats = NDArray[np.floating[Any]]
Rgb = NDArray[np.uint8]  # (y, x, 3)

Spacing = tuple[float, float, float]  # mm
Shape = tuple[int, int, int]
Box = tuple[slice, ...]  # a slice for each axis
Range = tuple[float, float]  # (low, high)
Seed = int | list[int]  # as for numpy.random.default_rng

Progress = Callable[[Iterable[Any]], Iterable[Any]]  # wraps the iterable of a loop: iter, or a progress bar

LabelNames = dict[int, str]  # {label: organ}
Row = dict[str, Any]  # of a table: {column: cell}
Values = dict[str, Any]  # settings or options: {field: value}


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


class Geometry(TypedDict):
    """The grid of an image as plain lists, for JSON; mm, LPS."""

    size_xyz: list[int]
    spacing_xyz: list[float]
    origin_xyz: list[float]
    direction: list[float]  # nine cosines, row by row
