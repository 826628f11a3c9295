"""Test-time augmentation: a network is asked about flipped and turned copies of slices, too, and the mean is taken."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

Images = TypeVar("Images")  # arrays of NumPy, or tensors of torch


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Of predict.py and test.py of the projects whose networks learnt from flipped or turned slices."""

    tta: bool = False  # average over the flips and quarter turns of training; takes as many times as long

    @property
    def views_note(self) -> str:
        """What a report says of it."""
        return " Mean over flipped and turned copies of each slice (--tta)." if self.tta else ""


@dataclass(frozen=True)
class FlipTurn:
    """A copy of a slice: flipped along some of its two axes (0, 1), then turned by quarters."""

    flips: tuple[int, ...] = ()
    quarters: int = 0

    def of(self, images: Images, library: ModuleType, axes: tuple[int, int]) -> Images:
        """The copy of images whose slices lie in `axes`; library: numpy or torch, whose arrays they are."""
        return library.rot90(library.flip(images, tuple(axes[i] for i in self.flips)), self.quarters, axes)

    def back(self, maps: Images, library: ModuleType, axes: tuple[int, int]) -> Images:
        """Maps of the copy, as they lie on the slice itself."""
        return library.flip(library.rot90(maps, -self.quarters, axes), tuple(axes[i] for i in self.flips))


def mean_of_views(forward: Callable[[Images], Images], images: Images, views: Sequence[FlipTurn], library: ModuleType,
                  axes: tuple[int, int]) -> Images:
    """The mean over the views of what `forward` makes of each, maps of the images' shape in `axes`. One sum is kept,
    not a map for each view."""
    total: Any = 0
    for view in views:
        total = total + view.back(forward(view.of(images, library, axes)), library, axes)
    return total / len(views)
