"""Masks to outlines and back, in the pixels of a plane: a pixel's centre has whole coordinates, its edges lie half a
pixel away. Polygons are arrays (n, 2) of (x, y), closed by themselves."""
from collections import Counter
from collections.abc import Sequence

import numpy as np
from skimage.measure import find_contours

from shared_data.named_types import Floats, Mask

ON_EDGE = 0.01  # pixels: so near to a line a pixel's centre lies on it
INSET = 1e-3  # pixels
SPARSE_MM = 10.0  # contours that skip slices stand for those between them up to this distance


def outlines(mask: Mask) -> list[Floats]:
    """The polygons along the pixels' edges around a boolean plane (y, x), a hair within them: readers that round to
    whole pixels have nothing to choose.

    A hole is joined to what surrounds it by a line there and back (DICOM's keyhole): readers that unite polygons see it
    as well as those that combine them by XOR.
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
    """The boolean plane (y, x) of the pixels whose centre lies within an odd number of polygons, or on a line.

    A polygon that is there twice counts as none. So what follows edges of pixels comes back exactly, and so does what
    other programs draw through the centres of the outermost pixels.
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
        row, x, passes = _crossings(start, stop, height)
        entered = np.zeros((height, width + 1), np.uint8)
        np.add.at(entered, (row[passes], np.clip(np.ceil(x[passes]), 0, width).astype(int)), 1)
        part |= np.cumsum(entered[:, :-1], axis=1, dtype=np.uint8) % 2 == 1
        _mark(part, row, x)
        column, y, _ = _crossings(start[:, ::-1], stop[:, ::-1], width)
        _mark(part.T, column, y)
    return plane


def slabs(planes: Floats, spacing_mm: float) -> tuple[Floats, Floats]:
    """(low, high): the stretch along the normal that each contoured plane stands for; planes: sorted, in slices.

    Half-way to the next plane where that lies in the next slice, or where planes follow each other at this distance
    (contours on every other slice, or on slices of another series); elsewhere half a slice.
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
    """What `find_contours` goes round lies left of each edge, if y points up; every edge is moved there."""
    edges = np.sign(np.roll(polygon, -1, axis=0) - polygon)  # along x and y in turns
    inwards = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    return polygon + INSET * (inwards + np.roll(inwards, 1, axis=0))


def _with_keyholes(polygons):
    """The polygons of `find_contours`, whose holes turn the other way, with every hole joined to the next edge left of
    its leftmost corner: that belongs to what surrounds it, or to a hole that was joined before."""
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
    """Numbers of the edges along y that lie left of a place, at its height."""
    following = np.roll(polygon, -1, axis=0)
    low, high = np.minimum(polygon, following), np.maximum(polygon, following)
    return np.flatnonzero((low[:, 0] == high[:, 0]) & (low[:, 0] < x) & (low[:, 1] <= y) & (y <= high[:, 1]))


def _area(polygon):
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)


def _unrepeated(polygons):
    """The polygons without those that cancel each other, whatever corner they begin with."""
    keys = [polygon[np.lexsort(polygon.T)].tobytes() for polygon in polygons]
    odd = {key for key, count in Counter(keys).items() if count % 2}
    return list({key: polygon for key, polygon in zip(keys, polygons) if key in odd}.values())


def _crossings(start, stop, n_lines):
    """Where edges meet the lines y = 0 .. n_lines - 1: (line, x, whether the edge passes it: its lower end counts, its
    upper one does not)."""
    low, high = np.minimum(start[:, 1], stop[:, 1]), np.maximum(start[:, 1], stop[:, 1])
    first = np.clip(np.ceil(low - ON_EDGE), 0, n_lines).astype(int)
    count = np.clip(np.floor(high + ON_EDGE) + 1, first, n_lines).astype(int) - first
    edge = np.repeat(np.arange(len(start)), count)
    line = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    way = (stop - start)[edge]
    share = np.divide(line - start[edge, 1], way[:, 1], out=np.zeros(len(edge)), where=way[:, 1] != 0)
    return line, start[edge, 0] + np.clip(share, 0, 1) * way[:, 0], (low[edge] <= line) & (line < high[edge])


def _mark(plane, line, place):
    """Set the pixels (line, place) whose centre is at the place."""
    near = np.round(place).astype(int)
    there = (np.abs(place - near) <= ON_EDGE) & (near >= 0) & (near < plane.shape[1])
    plane[line[there], near[there]] = True
