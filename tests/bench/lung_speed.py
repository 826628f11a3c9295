"""Exact 2-means, lung extraction and magic wand, each against a plain version on the same slices.

    python -m tests.bench.run lung_speed        (in .venv-keras)

Plain: iterative k-means over all pixels as in scikit-learn (with ten k-means++ starts, as in the versions of the
authors' time, and with one, as today), scikit-image's morphology with full footprints, and a wand with Python loops.
"""
import math
import time

import numpy as np
from skimage import measure, morphology

from lung_nodule_nasnet.cell_magic_wand import cell_magic_wand
from lung_nodule_nasnet.lungs import CENTRE, extract_lungs, to_matrix
from lung_nodule_nasnet.two_means import two_means_threshold
from shared_data.phantoms_chest import chest

SLICES = 4


def run():
    hu, _ = chest(3, (12, 256, 256))
    slices = [to_matrix(np.maximum(hu[k], -1024)) for k in np.linspace(2, 9, SLICES).astype(int)]
    centres = [slice_[CENTRE, CENTRE].ravel() for slice_ in slices]
    ours, exact = timed(lambda: [two_means_threshold(values) for values in centres], 20)
    results = {}
    for starts in (10, 1):
        plain, iterated = timed(lambda: [kmeans_threshold(values.astype(float), starts) for values in centres], 1)
        assert np.allclose(exact, iterated, atol=1.0), (exact, iterated)  # HU
        results[f"exact 2-means, k-means with {starts} start{'s' * (starts > 1)} over it"] = plain / ours
    ours, lungs = timed(lambda: [extract_lungs(slice_).mask for slice_ in slices], 10)
    plain, masks = timed(lambda: [plain_lungs(slice_, 10) for slice_ in slices], 1)
    assert all(np.array_equal(one, other) for one, other in zip(lungs, masks))
    results["lungs of a slice, plain (ten starts) over ours"] = plain / ours
    plain, _ = timed(lambda: [plain_lungs(slice_, 1) for slice_ in slices], 1)
    results["lungs of a slice, plain (one start) over ours"] = plain / ours
    wands = [(-slices[1].astype(int)[200:280, 120:200], (40 + i, 40 - i), 2, 8 + 2 * i) for i in range(4)]
    ours, masks = timed(lambda: [cell_magic_wand(*wand) for wand in wands], 20)
    plain, others = timed(lambda: [plain_wand(*wand) for wand in wands], 1)
    assert all(np.array_equal(one, other) for one, other in zip(masks, others))
    results["magic wand, plain loops over ours"] = plain / ours
    return results


def timed(work, repeats):
    """(the shortest time of a call, its result)"""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return min(times), result


def kmeans_threshold(values, starts, seed=0):
    """Lloyd's iteration over all values: k-means++ starts, at most 300 steps, until the centres or the labels stay."""
    rng, best = np.random.default_rng(seed), (math.inf, 0.0)
    tolerance = 1e-4 * values.var()
    for _ in range(starts):
        first = values[rng.integers(len(values))]
        distance = (values - first) ** 2
        centres = np.array([first, rng.choice(values, p=distance / distance.sum())])
        labels = None
        for _ in range(300):
            before, distance = labels, (values[:, None] - centres) ** 2
            labels = distance.argmin(1)
            moved = np.array([values[labels == k].mean() for k in (0, 1)])
            shift, centres = ((moved - centres) ** 2).sum(), moved
            if shift <= tolerance or (before is not None and np.array_equal(before, labels)):
                break
        inertia = ((values - centres[labels]) ** 2).sum()
        if inertia < best[0]:
            best = inertia, centres.mean()
    return best[1]


def plain_lungs(hu, starts):
    image = (hu - hu.mean()) / hu.std()
    mean = image[CENTRE, CENTRE].mean()
    image[image == image.max()], image[image == image.min()] = mean, mean
    dark = image < kmeans_threshold(image[CENTRE, CENTRE].ravel(), starts)
    opened = morphology.dilation(morphology.erosion(dark, np.ones((4, 4))), np.ones((10, 10)))
    kept = np.zeros(hu.shape, np.int8)
    labels = measure.label(opened)
    for part in measure.regionprops(labels):
        top, left, bottom, right = part.bbox
        if bottom - top < 475 and right - left < 475 and top > 40 and bottom < 472:
            kept += labels == part.label
    return morphology.dilation(kept, np.ones((10, 10)))


def plain_wand(image, center, min_radius, max_radius, roughness=2):
    from scipy.ndimage import binary_fill_holes
    n = int(2 * math.pi * max_radius * roughness)
    votes = np.zeros(image.shape)
    for dy in (-2, 0, 2):
        for dx in (-2, 0, 2):
            mask = np.zeros(image.shape, bool)
            polar, places = [], []
            for angle in np.linspace(0, 2 * math.pi, n):
                line = [(center[0] + dy + round(math.cos(angle) * r), center[1] + dx + round(math.sin(angle) * r))
                        for r in range(max_radius)]
                places.append(line)
                polar.append([int(image[place]) for place in line[min_radius:]])
            start = [a + b for a, b in zip(polar[0], polar[1])]
            at = 0
            for r, value in enumerate(start):
                if value >= max(0, start[at]):
                    at = r
            edge = []
            for k in range(n):
                if k:
                    steps = [(polar[k][at + 1] if at + 1 < len(polar[k]) else -math.inf), polar[k][at],
                             polar[k][at - 1] if at else 0]
                    at = max(0, at + 1 - steps.index(max(steps)))
                edge.append(at + min_radius)
            for r in range(max_radius):
                for k in range(n):
                    mask[places[k][r]] = r <= edge[k]
            votes += binary_fill_holes(mask)
    return votes / 9 > 0.5
