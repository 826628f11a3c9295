"""Test-time augmentation: the mean of a network's predictions for flipped and turned copies of the same slices."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

Images = TypeVar("Images")  # arrays of NumPy, or tensors of torch


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of predict.py and test.py where training flips or turns slices."""

    tta: bool = False  # average over the flips and quarter turns of training; n of them take n times as long

    @property
    def views_note(self) -> str:
        """A sentence for reports, with a leading space; empty without --tta."""
        return " Averaged over flipped and turned copies of each slice (--tta)." if self.tta else ""


@dataclass(frozen=True)
class FlipTurn:
    """A view of a slice: flipped along `flips`, a subset of its axes 0 and 1, then turned by quarters."""

    flips: tuple[int, ...] = ()
    quarters: int = 0

    def of(self, images: Images, library: ModuleType, axes: tuple[int, int]) -> Images:
        """This view of images whose slices lie in `axes`; library: numpy or torch, whichever the images belong to."""
        return library.rot90(library.flip(images, tuple(axes[i] for i in self.flips)), self.quarters, axes)

    def back(self, maps: Images, library: ModuleType, axes: tuple[int, int]) -> Images:
        """Maps of this view turned and flipped back onto the original slices."""
        return library.flip(library.rot90(maps, -self.quarters, axes), tuple(axes[i] for i in self.flips))


def mean_of_views(forward: Callable[[Images], Images], images: Images, views: Sequence[FlipTurn], library: ModuleType,
                  axes: tuple[int, int]) -> Images:
    """The mean over the views of forward(view), turned back; `forward` returns maps of the same shape in `axes`. Keeps
    a running sum rather than a map for every view."""
    total: Any = 0
    for view in views:
        total = total + view.back(forward(view.of(images, library, axes)), library, axes)
    return total / len(views)
