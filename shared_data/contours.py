"""Masks to outlines and back, in the pixels of a plane: a pixel's centre has integer coordinates, its edges lie half a
pixel away. Polygons are arrays (n, 2) of (x, y); the last point is joined to the first."""
from collections import Counter
from collections.abc import Sequence

import numpy as np
from skimage.measure import find_contours

from shared_data.named_types import Floats, Mask

ON_EDGE = 0.01  # pixels: closer to a line than this, a pixel's centre lies on it
INSET = 1e-3  # pixels by which outlines lie within the pixels' edges
SPARSE_MM = 10.0  # up to this distance contours that skip slices also stand for the slices between


def outlines(mask: Mask) -> list[Floats]:
    """The polygons around a boolean plane (y, x) along its pixels' edges, inset a little so that rounding to whole
    pixels is unambiguous.

    A hole is joined to the polygon around it by a double line (DICOM's keyhole), so that readers which unite polygons
    and readers which combine them by XOR both see it.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return []
    part = np.pad(mask[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1], 1)
    polygons = []
    for line in find_contours(part.astype(np.uint8), 0.5):  # through the middle of every pixel's edge
        line = line[:-1] + (rows[0] - 1, columns[0] - 1)
        on_row_edge = line[:, 0] % 1 > 0
        following = np.roll(line, -1, axis=0)
        turns = on_row_edge != np.roll(on_row_edge, -1)
        corners = np.where(on_row_edge[:, None] == (True, False), line, following)
        polygons.append(_inset(corners[turns][:, ::-1]))
    return _with_keyholes(polygons)


def filled(polygons: Sequence[Floats], shape_yx: tuple[int, int]) -> Mask:
    """The boolean plane (y, x) of the pixels whose centre lies inside an odd number of polygons, or on a line.

    Two equal polygons cancel. So outlines along pixel edges come back exactly, and so do those that other programs draw
    through the centres of the outermost pixels.
    """
    plane = np.zeros(shape_yx, bool)
    polygons = _unrepeated(polygons)
    if not polygons:
        return plane
    start = np.concatenate(polygons)
    stop = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    first = np.clip(np.floor(start.min(0)), 0, shape_yx[::-1]).astype(int)
    last = np.clip(np.ceil(start.max(0)) + 1, 0, shape_yx[::-1]).astype(int)
    width, height = last - first
    if width and height:
        part = plane[first[1]:last[1], first[0]:last[0]]
        start, stop = start - first, stop - first
        row, x, crosses = _crossings(start, stop, height)
        entered = np.zeros((height, width + 1), np.uint8)
        np.add.at(entered, (row[crosses], np.clip(np.ceil(x[crosses]), 0, width).astype(int)), 1)
        part |= np.cumsum(entered[:, :-1], axis=1, dtype=np.uint8) % 2 == 1
        _mark(part, row, x)
        column, y, _ = _crossings(start[:, ::-1], stop[:, ::-1], width)
        _mark(part.T, column, y)
    return plane


def slabs(planes: Floats, spacing_mm: float) -> tuple[Floats, Floats]:
    """(low, high): the extent along the normal that each contoured plane stands for; planes: sorted, in slices.

    It ends half-way to the next plane if that lies in the adjacent slice, or if planes repeat at that distance
    (contours on every other slice, or on slices of another series); otherwise half a slice away.
    """
    gaps = np.diff(planes)
    alike = np.abs(np.diff(gaps)) < 0.1 * gaps[1:]
    regular = np.r_[alike, False][:len(gaps)] | np.r_[False, alike][:len(gaps)]
    joined = (gaps < 1.5) | (regular & (gaps * spacing_mm <= SPARSE_MM))
    half = np.where(joined, gaps / 2, np.nan)
    below, above = np.r_[np.nan, half], np.r_[half, np.nan]
    single = np.where(np.isnan(below) & np.isnan(above), 0.5, np.fmin(below, above))
    return planes - np.where(np.isnan(below), single, below), planes + np.where(np.isnan(above), single, above)


def _inset(polygon):
    """Every edge moved inwards: with y up, `find_contours` keeps the inside on the left of each edge."""
    edges = np.sign(np.roll(polygon, -1, axis=0) - polygon)  # alternately along x and y
    inwards = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    return polygon + INSET * (inwards + np.roll(inwards, 1, axis=0))


def _with_keyholes(polygons):
    """The polygons of `find_contours` with its holes, which run the other way round, joined to the nearest edge left of
    their leftmost corner: it belongs to the polygon around the hole, or to a hole that is already joined."""
    whole = [polygon for polygon in polygons if _area(polygon) > 0]
    holes = [np.roll(polygon, -polygon[:, 0].argmin(), axis=0) for polygon in polygons if _area(polygon) < 0]
    for hole in sorted(holes, key=lambda hole: hole[0, 0]):
        x, y = hole[0]
        edges = [(polygon[i, 0], n, i) for n, polygon in enumerate(whole) for i in _vertical_edges(polygon, x, y)]
        left, n, i = max(edges)
        gate = [[left, y]]
        whole[n] = np.concatenate([whole[n][:i + 1], gate, hole, hole[:1], gate, whole[n][i + 1:]])
    return whole


def _vertical_edges(polygon, x, y):
    """Indices of the edges along y that lie left of (x, y) at its height."""
    following = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon, following), np.maximum(polygon, following)
    return np.flatnonzero((low[:, 0] == high[:, 0]) & (low[:, 0] < x) & (low[:, 1] <= y) & (y <= high[:, 1]))


def _area(polygon):
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)


def _unrepeated(polygons):
    """The polygons without pairs of equal ones, whatever corner they begin with."""
    keys = [polygon[np.lexsort(polygon.T)].tobytes() for polygon in polygons]
    odd = {key for key, count in Counter(keys).items() if count % 2}
    return list({key: polygon for key, polygon in zip(keys, polygons) if key in odd}.values())


def _crossings(start, stop, n_lines):
    """Where edges meet the lines y = 0 .. n_lines - 1: (line, x, whether the edge crosses it; its lower end counts, its
    upper end does not)."""
    low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
    first = np.clip(np.ceil(low - ON_EDGE), 0, n_lines).astype(int)
    count = np.clip(np.floor(high + ON_EDGE) + 1, first, n_lines).astype(int) - first
    edge = np.repeat(np.arange(len(start)), count)
    line = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    direction = (stop - start)[edge]
    share = np.divide(line - start[edge, 1], direction[:, 1], out=np.zeros(len(edge)), where=direction[:, 1] != 0)
    return line, start[edge, 0] + np.clip(share, 0, 1) * direction[:, 0], (low[edge] <= line) & (line < high[edge])


def _mark(plane, line, place):
    """Set the pixels of `plane` whose centre lies at (line, place)."""
    nearest = np.round(place).astype(int)
    on_edge = (np.abs(place - nearest) <= ON_EDGE) & (nearest >= 0) & (nearest < plane.shape[1])
    plane[line[on_edge], nearest[on_edge]] = True
