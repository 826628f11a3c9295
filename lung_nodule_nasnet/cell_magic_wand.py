"""Outlines drawn from a seed inside a nodule.

`cell_magic_wand` is the authors' (after the Cell Magic Wand tool of Walker, Max Planck Florida): a greedy walk over the
angles along the brightest neighbours. Given the sign-flipped CT, as they do, it runs through dark lung near the largest
radius. `edge_wand` is ours: the closed outline with the steepest fall of the image, by dynamic programming.
"""
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from shared_data.named_types import Array, Floats, Labels, Mask

SEED_SHIFTS = (-2, 0, 2)  # pixels along rows and columns: nine seeds vote


def cell_magic_wand(image: Array, center: Sequence[float], min_radius: float, max_radius: float, roughness: float = 2,
                    single: bool = False) -> Mask:
    """Boolean mask (rows, columns) of what the walk encloses, by the majority of nine seeds around `center`.

    image: (rows, columns), the walk keeps to its bright pixels. center: (row, column). Radii: pixels, the largest is
    not reached. roughness: steps a pixel of the largest circle. single: from the one seed alone.
    """
    min_radius, max_radius = check_radii(min_radius, max_radius)
    n_angles = int(2 * math.pi * max_radius * roughness)
    angle = np.linspace(0, 2 * math.pi, n_angles)  # first and last are the same direction
    radius = np.arange(max_radius)[:, None]
    rows = np.round(radius * np.cos(angle)).astype(int)  # (radii, angles), from the seed
    columns = np.round(radius * np.sin(angle)).astype(int)
    shifts = [(0, 0)] if single else [(dy, dx) for dy in SEED_SHIFTS for dx in SEED_SHIFTS]
    seeds = np.array(shifts) + np.round(center).astype(int)  # (seeds, 2)
    image = np.asarray(image, np.float64)
    at_rows = np.clip(seeds[:, 0, None, None] + rows[min_radius:], 0, image.shape[0] - 1)
    at_columns = np.clip(seeds[:, 1, None, None] + columns[min_radius:], 0, image.shape[1] - 1)
    edge = min_radius + greedy_path(image[at_rows, at_columns].swapaxes(1, 2))  # (seeds, angles)
    # Neighbours share pixels: the largest radius decides, of equals the last angle. Then holes are closed.
    side = 2 * max_radius - 1
    inside = np.zeros((len(seeds), side, side), bool)
    inside[:, rows + max_radius - 1, columns + max_radius - 1] = radius <= edge[:, None]
    votes = np.zeros(np.add(image.shape, 2 * side), np.uint8)  # with a margin for seeds near the border
    for (row, column), disc in zip(seeds, inside):
        top, left = (int(np.clip(at - max_radius + 1 + side, 0, limit + side))
                     for at, limit in ((row, image.shape[0]), (column, image.shape[1])))
        votes[top:top + side, left:left + side] += ndimage.binary_fill_holes(disc)
    return 2 * votes[side:-side, side:-side] > len(seeds)


def greedy_path(polar: Floats) -> Labels:
    """(seeds, angles, radii) -> the radius index at each angle: from the brightest start to the brightest of outward,
    same and inward, in this order on ties. Within the smallest radius everything counts 0."""
    n_seeds, n_angles, n_radii = polar.shape
    outside, within = np.full((n_seeds, n_angles, 1), -np.inf), np.zeros((n_seeds, n_angles, 1))
    moves = np.stack([np.concatenate([polar[:, :, 1:], outside], 2), polar,
                      np.concatenate([within, polar[:, :, :-1]], 2)])
    following = np.maximum(np.arange(n_radii) + 1 - moves.argmax(0), 0)  # where each (angle, radius before) leads
    start = polar[:, :2].sum(1)
    at = np.where(start.max(1) < 0, 0, n_radii - 1 - start[:, ::-1].argmax(1))  # the outermost of equals
    seeds, path = np.arange(n_seeds), np.empty((n_angles, n_seeds), int)
    path[0] = at
    for k in range(1, n_angles):
        path[k] = at = following[seeds, k, at]
    return path.T


def edge_wand(image: Array, center: Sequence[float], min_radius: float, max_radius: float,
              expected_radius: float | None = None, pull: float = 0.0) -> Mask | None:
    """Boolean mask enclosed by the closed outline along which the image falls most steeply outwards.

    center: (row, column), fractions allowed; radii in pixels. `pull`: cost, in units of the image a pixel, of leaving
    `expected_radius`. Returns None where no closed outline has a fall, on the mean.
    """
    min_radius, max_radius = check_radii(min_radius, max_radius)
    radius = np.arange(min_radius, max_radius + 0.25, 0.5)
    n_angles = max(16, 4 * math.ceil(math.pi * max_radius / 2))
    angle = np.arange(n_angles) * (2 * math.pi / n_angles)

    def sampled(at):
        where = [center[0] + np.cos(angle)[:, None] * at, center[1] + np.sin(angle)[:, None] * at]
        return ndimage.map_coordinates(np.asarray(image, np.float64), where, order=1, mode="nearest")

    fall = sampled(radius - 0.75) - sampled(radius + 0.75)  # (angles, radii)
    if expected_radius is not None:
        fall = fall - pull * np.abs(radius - expected_radius)
    path, mean = closed_path(fall)
    if mean < 1e-6:
        return None
    edge = radius[path]
    y, x = np.ogrid[:image.shape[0], :image.shape[1]]
    y, x = y - center[0], x - center[1]
    direction = np.mod(np.arctan2(x, y), 2 * math.pi) * (n_angles / (2 * math.pi))
    before = direction.astype(int) % n_angles
    share = direction - np.floor(direction)
    return np.hypot(y, x) <= (1 - share) * edge[before] + share * edge[(before + 1) % n_angles]


def closed_path(gain: Floats) -> tuple[Labels, float]:
    """(angles, radii) -> (radius index at each angle, mean gain) of the closed path with the largest sum; from one
    angle to the next, and from the last to the first, it moves by one radius at most."""
    n_angles, n = gain.shape
    best = np.full((n, n), -np.inf)  # (first radius, radius now)
    best[np.arange(n), np.arange(n)] = gain[0]
    moves = np.empty((n_angles, n, n), np.int8)
    for k in range(1, n_angles):
        walled = np.pad(best, ((0, 0), (1, 1)), constant_values=-np.inf)
        choices = np.stack([walled[:, 1:-1], walled[:, :-2], walled[:, 2:]])  # stay, from within, from outside
        moves[k] = choices.argmax(0)
        best = choices.max(0) + gain[k]
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    closed = np.where(apart <= 1, best, -np.inf)
    first, at = np.unravel_index(closed.argmax(), closed.shape)
    total, path = closed[first, at], [int(at)]
    for k in range(n_angles - 1, 0, -1):
        at += (0, -1, 1)[moves[k, first, at]]
        path.append(int(at))
    return np.array(path[::-1]), total / n_angles


def check_radii(min_radius: float, max_radius: float) -> tuple[int, int]:
    low, high = int(min_radius), math.ceil(max_radius)
    if not 0 <= low < high:
        raise ValueError(f"radii {min_radius} and {max_radius}: the first must be at least 0 and below the second")
    return low, high
