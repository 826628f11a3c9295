"""A page to look into a case: three planes, window and level, layers, the worst places; opens from disk.

The page contains its volumes, cropped and in 8 bits; it needs neither network nor WebGL (templates/viewer.js).
"""
import base64
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_data.colour_tables import COLOURS
from shared_results.pages import write_page
from shared_results.pictures import PREDICTION_RGB, REFERENCE_RGB
from shared_results.worst_places import (
    Box,
    Place,
    largest_parts,
    most_disputed_places,
    place_of_each_label,
    worst_errors,
    wrong_voxels,
)

SOFT_TISSUE_HU = (-160.0, 240.0)
# Grey levels are 3 HU apart in soft tissue, 16 HU below and 24 HU above it.
KNOTS_HU, KNOTS_GREY = (-1024, -200, 300, 1500), (0, 50, 205, 255)
GREY_OF_HU = np.rint(np.interp(np.arange(KNOTS_HU[0], KNOTS_HU[-1] + 1), KNOTS_HU, KNOTS_GREY)).astype(np.uint8)
HU_OF_GREY = np.rint(np.interp(np.arange(256), KNOTS_GREY, KNOTS_HU)).astype(int)
BODY_HU = -500  # the page is cropped to what is denser
MARGINS_MM = (160.0, 80.0, 40.0)  # around the labels, if the whole patient is too large: the first that fits
MAX_VOXELS = 6_500_000  # keeps a page below 10 MB even if noise cannot be compressed
VOTES_SCALE = 180  # grey levels per nat of entropy; 1.4 nats: four members with four different votes


@dataclass(frozen=True)
class View:
    """What there is to see of a case; arrays (z, y, x) on one grid in LPS: x runs to the left, y to posterior, z to
    superior."""

    hu: np.ndarray
    spacing_zyx: Sequence[float]  # mm
    names: Mapping[int, str]  # of the labels above 0
    prediction: np.ndarray  # labels, uint8
    reference: np.ndarray | None = None  # labels, uint8
    disagreement: np.ndarray | None = None  # entropy of an ensemble's votes
    absent_is_undrawn: bool = False  # nobody drew a label that the reference lacks: finding it is no error
    window_hu: tuple[float, float] = SOFT_TISSUE_HU  # in which the page opens


@dataclass(frozen=True)
class Content:
    """What a page holds of a `View`: {layer: uint8 (z, y, x)}, all of one shape, and facts about them."""

    layers: dict[str, np.ndarray]
    facts: dict[str, object]


def viewer_pages(folder: Path, cases: Iterable[str]) -> dict[str, Path]:
    """{case: its page} of those cases that have one, below the folder of a report."""
    pages = {case: folder / "viewer" / f"{case}.html" for case in cases}
    return {case: page for case, page in pages.items() if page.exists()}


def write_viewer(folder: Path, case: str, view: View) -> None:
    """Write the page of a case below the folder of a report."""
    write_content(folder / "viewer" / f"{case}.html", case, content_of(view))


def write_content(path: Path, title: str, content: Content) -> None:
    packed = {name: base64.b64encode(zlib.compress(layer.tobytes(), 6)).decode()
              for name, layer in content.layers.items()}
    write_page(path, "viewer.html", title=title, facts=content.facts, packed=packed)


def content_of(view: View) -> Content:
    """The whole patient; if that is too large, the labels with a margin; if those are still too large, coarser voxels.
    """
    layers = {name: layer for name in ("prediction", "reference", "disagreement")
              if (layer := getattr(view, name)) is not None}
    labelled = _extent(layer > 0 if name == "disagreement" else layer for name, layer in layers.items())
    box = _shown_box(view, labelled)
    steps = _steps(_shape(box), view.spacing_zyx)
    ct = _grey(view.hu[box], steps)
    middles = tuple(slice((step - 1) // 2, step * size, step) for step, size in zip(steps, ct.shape))
    shown = {name: layer[box][middles] for name, layer in layers.items()}
    if "disagreement" in shown:
        shown["disagreement"] = np.clip(np.rint(shown["disagreement"] * VOTES_SCALE), 0, 255)
    undrawn = _undrawn(view, labelled)
    places, of_label = _places(view, labelled, undrawn) if labelled else ([], {})
    start = [part.start for part in box]

    def on_page(at: Sequence[int]) -> list[int]:
        return [min((value - first) // step, size - 1) for value, first, step, size in zip(at, start, steps, ct.shape)]

    return Content({"ct": ct, **{name: layer.astype(np.uint8) for name, layer in shown.items()}}, {
        "shape": ct.shape, "start": start, "steps": steps, "slices": view.hu.shape,
        "spacing": [float(mm * step) for mm, step in zip(view.spacing_zyx, steps)],
        "window": view.window_hu, "hu": HU_OF_GREY.tolist(), "votesScale": VOTES_SCALE,
        "labels": [{"label": label, "name": name, "undrawn": label in undrawn,
                    "at": on_page(of_label[label]) if label in of_label else None, **_colours(label, view.names)}
                   for label, name in view.names.items()],
        "places": [{"text": place.text, "at": on_page(place.at_zyx)} for place in places]})


def _places(view: View, labelled: Box, undrawn: Sequence[int]) -> tuple[list[Place], dict[int, tuple[int, ...]]]:
    """(places to look at first, {label: where to look for it}), searched within the box that has labels."""
    prediction, spacing, names = view.prediction[labelled], view.spacing_zyx, view.names
    reference = wrong = None
    if view.reference is not None:
        reference = view.reference[labelled]
        wrong = wrong_voxels(prediction, reference, undrawn)
        places = worst_errors(prediction, reference, wrong, names, spacing)
    elif view.disagreement is not None:
        places = most_disputed_places(view.disagreement[labelled], prediction, names, spacing)
    else:
        places = largest_parts(prediction, names, spacing)
    of_label = place_of_each_label(prediction, reference, wrong, spacing)

    def in_volume(at: Sequence[int]) -> tuple[int, ...]:
        return tuple(value + part.start for value, part in zip(at, labelled))

    return ([Place(place.text, in_volume(place.at_zyx)) for place in places],
            {label: in_volume(at) for label, at in of_label.items()})


def _undrawn(view: View, labelled: Box | None) -> list[int]:
    if view.reference is None or not view.absent_is_undrawn:
        return []
    drawn = np.unique(view.reference[labelled]).tolist() if labelled else []
    return sorted(set(view.names) - set(drawn))


def _colours(label: int, names: Mapping[int, str]) -> dict[str, list[int]]:
    """Colours of the reference's line and the prediction's fill, as in the pictures."""
    if len(names) == 1:
        return {"line": list(REFERENCE_RGB), "fill": list(PREDICTION_RGB)}
    colour = COLOURS[label % len(COLOURS)].tolist()
    return {"line": colour, "fill": colour}


def _extent(masks: Iterable[np.ndarray]) -> Box | None:
    """The smallest box around the nonzero voxels of all arrays (z, y, x); None if there is none."""
    profiles = [[mask.any(others) for others in ((1, 2), (0, 2), (0, 1))] for mask in masks]
    used = [np.flatnonzero(np.logical_or.reduce(along_axis)) for along_axis in zip(*profiles)]
    return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in used) if len(used[0]) else None


def _shown_box(view: View, labelled: Box | None) -> Box:
    shape = view.hu.shape
    body = _extent([view.hu > BODY_HU]) or tuple(slice(0, size) for size in shape)
    if labelled is None:
        return body
    patient = tuple(slice(min(part.start, core.start), max(part.stop, core.stop)) for part, core in zip(body, labelled))
    boxes = [patient]
    for margin in MARGINS_MM:
        voxels = [math.ceil(margin / mm) for mm in view.spacing_zyx]
        boxes.append(tuple(slice(max(part.start, core.start - n), min(part.stop, core.stop + n))
                           for part, core, n in zip(patient, labelled, voxels)))
    return next((box for box in boxes if math.prod(_shape(box)) <= MAX_VOXELS), boxes[-1])


def _shape(box: Box) -> list[int]:
    return [part.stop - part.start for part in box]


def _steps(shape: Sequence[int], spacing_zyx: Sequence[float]) -> list[int]:
    """How many voxels are merged into one along each axis; the finest axis is made coarser first."""
    steps = [1, 1, 1]
    while math.prod(size // step for size, step in zip(shape, steps)) > MAX_VOXELS:
        reducible = [axis for axis in range(3) if shape[axis] > steps[axis]]
        steps[min(reducible, key=lambda axis: spacing_zyx[axis] * steps[axis])] += 1
    return steps


def _grey(hu: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """HU (z, y, x) as grey levels, each the mean of a block of `steps` voxels; slice by slice, to save memory."""
    size = [length // step for length, step in zip(hu.shape, steps)]
    grey = np.empty(size, np.uint8)
    z, y, x = steps
    for k in range(size[0]):
        block = hu[k * z:(k + 1) * z, :size[1] * y, :size[2] * x]
        mean = block.reshape(z, size[1], y, size[2], x).mean((0, 2, 4), dtype=np.float32)
        grey[k] = GREY_OF_HU[np.rint(np.clip(mean, KNOTS_HU[0], KNOTS_HU[-1])).astype(int) - KNOTS_HU[0]]
    return grey
