"""What other probability thresholds and smallest components would find in a case, to choose an operating point from."""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_data.files import write_table
from shared_data.metrics import bounding_box, components
from shared_data.named_types import Row

CUTS = (0.01, 0.02, *(number / 20 for number in range(1, 20)), 0.98, 0.99)
SIZES_ML = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
CANDIDATES = 200  # kept per case and threshold, the most probable; more would be useless anyway


@dataclass(frozen=True)
class Parts:
    """The connected components of a mask, and what they share with a reference."""

    volume: np.ndarray  # (parts,), ml
    overlap: np.ndarray  # (parts,), ml: with the reference
    size: np.ndarray  # (parts,): what is compared with the smallest size, ml
    touched: np.ndarray  # (n, 2): pairs (part from 0, node of the reference from 1) that overlap

    def counts(self, smallest: float) -> dict[str, float]:
        """Volumes (ml) and numbers of nodes, of the parts that have at least the size `smallest`."""
        large = large_enough(self.size, smallest)
        pairs = self.touched[large[self.touched[:, 0]]]
        return {"prediction": float(self.volume[large].sum()), "overlap": float(self.overlap[large].sum()),
                "found": len(np.unique(pairs[:, 1])), "false_positives": int(large.sum()) - len(np.unique(pairs[:, 0]))}


def large_enough(sizes: np.ndarray, smallest: float) -> np.ndarray:
    """Which sizes reach `smallest`, but for rounding."""
    return sizes >= smallest - 1e-9


def parts_of(labels: np.ndarray, number: int, nodes: np.ndarray, voxel_ml: float) -> Parts:
    """`Parts` of a map (z, y, x) of components 1 to `number`; nodes: map of those of the reference, 0 elsewhere."""
    places = np.flatnonzero(labels)
    part, node = labels.ravel()[places] - 1, nodes.ravel()[places]
    volume = np.bincount(part, minlength=number) * voxel_ml
    pairs = np.unique(np.stack([part, node], axis=1)[node > 0], axis=0)
    return Parts(volume, np.bincount(part, node > 0, number) * voxel_ml, np.array(volume, float), pairs)


def sweep(probability: np.ndarray, reference: np.ndarray, final: np.ndarray, voxel_ml: float,
          mask_at: Callable[[float], np.ndarray] | None = None) -> tuple[list[Row], list[Row]]:
    """(a row of counts for each threshold and smallest size, candidates at each threshold) of a probability (z, y, x).

    reference: boolean, of the same shape; its components are the nodes. final: the mask that is scored; its counts are
    the row without a cut. mask_at(cut): the mask at a threshold; None: probability > cut.
    """
    nodes, n_nodes = components(reference)
    of_reference = {"reference": float(reference.sum() * voxel_ml), "nodes": n_nodes}
    labels, number = components(final)
    rows = [{"cut": None, "smallest": None, **of_reference, **parts_of(labels, number, nodes, voxel_ml).counts(0)}]
    candidates: list[Row] = []
    if mask_at is None and (likely := probability > CUTS[0]).any():  # nothing is found outside of this box
        box = bounding_box(likely)
        probability, nodes = probability[box], nodes[box]
    for cut in CUTS:
        labels, number = components(probability > cut if mask_at is None else mask_at(cut))
        parts = parts_of(labels, number, nodes, voxel_ml)
        rows += [{"cut": cut, "smallest": smallest, **of_reference, **parts.counts(smallest)} for smallest in SIZES_ML]
        candidates += _candidates(cut, labels, probability, parts, voxel_ml)
    return rows, candidates


def _candidates(cut: float, labels: np.ndarray, probability: np.ndarray, parts: Parts,
                voxel_ml: float) -> Iterator[Row]:
    """Yield each part's size, mean probability and touched nodes ("#1#3"); the CANDIDATES most probable, in order."""
    if not len(parts.volume):
        return
    places = np.flatnonzero(labels)
    means = np.bincount(labels.ravel()[places] - 1, probability.ravel()[places]) / (parts.volume / voxel_ml)
    for part in np.argsort(-means, kind="stable")[:CANDIDATES]:
        touched = parts.touched[parts.touched[:, 0] == part, 1]
        yield {"cut": cut, "size": float(parts.size[part]), "probability": float(means[part]),
               "nodes": "".join(f"#{node}" for node in touched)}


def sweep_organs(labels: np.ndarray, reference: np.ndarray, names: Sequence[str], voxel_ml: float) -> list[Row]:
    """A row of volumes (ml) for each organ 1, 2, ... in the reference and each smallest component; both are label maps
    (z, y, x). The largest component of an organ always stays."""
    rows = []
    for label, organ in enumerate(names, 1):
        truth, found = reference == label, labels == label
        if not truth.any():
            continue
        islands, number = components(found)
        parts = parts_of(islands, number, truth.astype(np.uint8), voxel_ml)
        if len(parts.size):
            parts.size[parts.size.argmax()] = np.inf
        for smallest in (None, *SIZES_ML):
            counts = parts.counts(smallest or 0)
            rows.append({"organ": organ, "cut": None, "smallest": smallest, "reference": float(truth.sum() * voxel_ml),
                         "prediction": counts["prediction"], "overlap": counts["overlap"]})
    return rows


def write_sweeps(folder: Path, cases: Sequence[str], sweeps: Sequence[tuple[list[Row], list[Row]]]) -> None:
    """Write sweep.csv and sweep_candidates.csv; sweeps: what `sweep` returned for each case."""
    for index, name in enumerate(("sweep.csv", "sweep_candidates.csv")):
        rows = [{"case": case, **row} for case, tables in zip(cases, sweeps) for row in tables[index]]
        write_table(folder / name, rows, ("case", "cut"))


def without_small(mask: np.ndarray, voxel_ml: float, smallest_ml: float) -> np.ndarray:
    """The mask, boolean (z, y, x), without components (26 neighbours) smaller than `smallest_ml`."""
    if not smallest_ml:
        return mask
    labels, number = components(mask)
    kept = large_enough(np.bincount(labels.ravel(), minlength=number + 1) * voxel_ml, smallest_ml)
    return mask & kept[labels]


def without_islands(labels: np.ndarray, voxel_ml: float, smallest_ml: Sequence[float]) -> np.ndarray:
    """The label map (z, y, x), in which the components of organs 1, 2, ... that are smaller than the organ's
    `smallest_ml` have become background; the largest component of each organ stays."""
    if not any(smallest_ml):
        return labels
    labels = labels.copy()
    for label, smallest in enumerate(smallest_ml, 1):
        organ = labels == label
        parts, number = components(organ)
        if number > 1 and smallest:
            counts = np.bincount(parts.ravel())
            kept = large_enough(counts * voxel_ml, smallest)
            kept[1 + counts[1:].argmax()] = True
            labels[organ & ~kept[parts]] = 0
    return labels
