"""Where to look first in a case: where most is wrong or disputed, or at the largest parts found."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

PLACES = 12  # at most
CELL_MM = 10.0  # edge of the cubes in which wrong voxels are counted
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Place:
    text: str
    at_zyx: tuple[int, ...]  # a voxel


def wrong_voxels(prediction: np.ndarray, reference: np.ndarray, undrawn: Sequence[int]) -> np.ndarray:
    """Boolean (z, y, x): where labels differ, except where a label of `undrawn` was found, which nobody drew."""
    wrong = prediction != reference
    if undrawn:
        wrong &= (reference > 0) | ~np.isin(prediction, undrawn)
    return wrong


def worst_errors(prediction: np.ndarray, reference: np.ndarray, wrong: np.ndarray, names: Mapping[int, str],
                 spacing_zyx: Sequence[float]) -> list[Place]:
    """The axial slice with most wrong voxels, then the places where most are close together, worst first."""
    if not wrong.any():
        return []
    voxel_ml = np.prod(spacing_zyx) / 1000
    slices = wrong.sum((1, 2))
    k = int(slices.argmax())
    worst_slice = Place(f"axial slice with most wrong: {slices[k] * voxel_ml:.2f} ml",
                        _middle(wrong, (slice(k, k + 1), slice(None), slice(None))))
    places = []
    for cell in fullest_cells(wrong, spacing_zyx, PLACES):
        inside = wrong[cell]
        pairs, counts = np.unique(reference[cell][inside].astype(int) * 256 + prediction[cell][inside],
                                  return_counts=True)
        drawn, found = divmod(int(pairs[counts.argmax()]), 256)
        what = (f"{names[drawn]} taken for {names[found]}" if drawn and found else
                f"{names[drawn]} missed" if drawn else f"{names[found]} too much")
        ml = inside.sum() * voxel_ml
        places.append((-ml, Place(f"{what}: {ml:.2f} ml within 1 cm", _middle(wrong, cell))))
    return [worst_slice, *(place for _, place in sorted(places, key=lambda entry: entry[0]))]


def most_disputed_places(disagreement: np.ndarray, prediction: np.ndarray, names: Mapping[int, str],
                         spacing_zyx: Sequence[float]) -> list[Place]:
    """Where the members of an ensemble disagree most."""
    weight = np.maximum(disagreement, 0)
    places = []
    for cell in fullest_cells(weight, spacing_zyx, PLACES):
        at = np.add(np.unravel_index(weight[cell].argmax(), weight[cell].shape), [part.start for part in cell])
        found = prediction[cell][prediction[cell] > 0]
        label = int(np.bincount(found).argmax()) if len(found) else 0
        places.append(Place(f"members disagree: {names[label] if label else 'nothing found'}", tuple(at.tolist())))
    return places


def largest_parts(labels: np.ndarray, names: Mapping[int, str], spacing_zyx: Sequence[float]) -> list[Place]:
    """The connected parts of the labels, largest first; of several labels only the largest part of each."""
    voxel_ml, parts = np.prod(spacing_zyx) / 1000, []
    boxes = {label: box for label, box in enumerate(ndimage.find_objects(labels), 1) if box}
    for label, box in boxes.items():
        numbered, _ = ndimage.label(labels[box] == label, np.ones((3, 3, 3)))
        sizes = np.bincount(numbered.ravel())[1:]
        for part in np.argsort(-sizes, kind="stable")[:PLACES if len(names) == 1 else 1]:
            at = np.add(_middle(numbered == part + 1, (slice(None),) * 3), [part.start for part in box])
            parts.append((-sizes[part], Place(f"{names[label]}: {sizes[part] * voxel_ml:.2f} ml", tuple(at.tolist()))))
    return [place for _, place in sorted(parts, key=lambda entry: entry[0])]


def place_of_each_label(prediction: np.ndarray, reference: np.ndarray | None, wrong: np.ndarray | None,
                        spacing_zyx: Sequence[float]) -> dict[int, tuple[int, ...]]:
    """{label: where most of it is wrong, otherwise its middle} of the labels that occur."""
    maps = [labels for labels in (reference, prediction) if labels is not None]
    places: dict[int, tuple[int, ...]] = {}
    for labels in maps:
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            if box is None or label in places:
                continue
            voxels = np.logical_or.reduce([each[box] == label for each in maps])
            if wrong is not None and (voxels & wrong[box]).any():
                voxels &= wrong[box]
            at = _middle(voxels, next(fullest_cells(voxels, spacing_zyx, 1)))
            places[label] = tuple(value + part.start for value, part in zip(at, box))
    return places


def fullest_cells(weight: np.ndarray, spacing_zyx: Sequence[float], count: int) -> Iterator[Box]:
    """The cubes of CELL_MM with the largest sums of a weight (z, y, x), no two adjacent, each with 5 mm around it."""
    size = [max(1, round(CELL_MM / mm)) for mm in spacing_zyx]
    sums = weight
    for axis, step in enumerate(size):
        sums = np.add.reduceat(sums, np.arange(0, sums.shape[axis], step), axis, dtype=np.float32)
    for _ in range(count):
        best = np.unravel_index(sums.argmax(), sums.shape)
        if sums[best] <= 0:
            return
        yield tuple(slice(max(0, k * step - step // 2), (k + 1) * step + step // 2) for k, step in zip(best, size))
        sums[tuple(slice(max(0, k - 1), k + 2) for k in best)] = 0


def _middle(mask: np.ndarray, box: Box) -> tuple[int, ...]:
    """The voxel of a mask within a box that is nearest to the mean of those voxels."""
    points = np.argwhere(mask[box])
    nearest = ((points - points.mean(0)) ** 2).sum(1).argmin()
    return tuple(int(value + (part.start or 0)) for value, part in zip(points[nearest], box))
