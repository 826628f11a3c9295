"""Overlays, contact sheets and curves as PNG."""
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure

from shared_data.files import whole_file
from shared_data.named_types import Array, Labels, Mask, Range, Rgb, Row, StrPath

REFERENCE_RGB, PREDICTION_RGB = (60, 220, 90), (255, 90, 60)
LEARNING_RATE = "learning rate"  # title of a panel


def magnified(unit_yx: Array, side: int, aspect: float = 1.0) -> Rgb:
    """RGB (height, `side`, 3) uint8 of a slice in [0, 1]; aspect: a pixel's height over its width."""
    size = (side, max(1, round(side * aspect * unit_yx.shape[0] / unit_yx.shape[1])))
    grey = cv2.resize((np.clip(unit_yx, 0, 1) * 255).astype(np.uint8), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


def overlay(unit_yx: Array, reference: Labels | Mask | None = None, prediction: Labels | Mask | None = None,
            side: int = 512) -> Rgb:
    """RGB (height, `side`, 3) uint8 of a slice in [0, 1], the reference outlined in green, the prediction in red on
    top.

    Magnified to `side` pixels of width, so that outlines are thinner than a voxel.
    """
    picture = magnified(unit_yx, side)
    for mask, colour, width in ((reference, REFERENCE_RGB, max(3, side // 128)),
                                (prediction, PREDICTION_RGB, max(1, side // 256))):
        if mask is not None:
            large = cv2.resize(mask.astype(np.uint8), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
            outlines, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour, width, cv2.LINE_AA)
    return picture


def save_picture(path: StrPath, rgb: Rgb) -> None:
    """Write an RGB array (y, x, 3) as PNG."""
    with whole_file(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes())


def mask_sheet(volume: Array, mask: Labels | Mask, window: Range, tiles: int = 8) -> Rgb:
    """Contact sheet (RGB) of the slices of a volume (z, y, x) that hold most of a mask, or of evenly spaced ones if it
    is empty. window: (low, high), the values shown black and white."""
    area, (low, high) = mask.sum((1, 2), dtype=np.int64), window
    fullest, spread = np.argsort(-area, kind="stable")[:tiles], np.linspace(0, len(area) - 1, tiles + 2)[1:-1]
    pictures = []
    for k in sorted({int(k) for k in (fullest if area.any() else spread)}):
        unit = (volume[k].astype(np.float32) - low) / (high - low)
        pictures.append((overlay(unit, prediction=mask[k], side=320), f"slice {k}"))
    return contact_sheet(pictures)


def contact_sheet(pictures: Sequence[tuple[Rgb, str]], columns: int = 4) -> Rgb:
    """One RGB array that shows (RGB, caption) pairs in rows of `columns`."""
    tiles = [_captioned(picture, caption) for picture, caption in pictures]
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        sheet[y:y + tile.shape[0], x:x + tile.shape[1]] = tile
    return sheet


def draw_curves(history: Sequence[Row], path: StrPath, panels: Mapping[str, Sequence[str]]) -> None:
    """Write a PNG with a panel per {title: columns} over the epochs of `history`, and one of its column "lr". A value
    that is not finite, or missing (as in runs of earlier versions), gets no point."""
    panels = {**panels, LEARNING_RATE: ["lr"]}
    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axes, (title, columns) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items()):
        for column in columns:
            points = [(row["epoch"], row[column]) for row in history if np.isfinite(row.get(column, np.nan))]
            axes.plot(*zip(*points) if points else ((), ()), label=column, marker="." if len(points) < 30 else None)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", framealpha=0.5)
        if title == LEARNING_RATE:
            axes.set_yscale("log")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _captioned(picture, caption):
    bar = np.zeros((22, picture.shape[1], 3), np.uint8)
    text = caption.encode("ascii", "replace").decode()  # OpenCV's fonts have no other letters
    cv2.putText(bar, text, (6, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])
