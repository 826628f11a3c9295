"""Where the members of an ensemble disagree, and what that says of a contour."""
from collections.abc import Iterable, Sequence

import numpy as np

from shared_data.named_types import Floats, Labels, Row


def agreement(votes: Labels) -> Labels:
    """(members, ...): how many members, itself included, vote as this one does; votes: (members, ...) of classes."""
    return np.stack([(votes == vote).sum(0, dtype=np.uint8) for vote in votes])


def vote_entropy(votes: Labels) -> Floats:
    """Entropy (...) of the classes in votes (members, ...): -sum p log(p + 1e-5), float32 (SepNet's authors).

    So unanimity is -1e-5; six members split 5+1 give 0.4505, 4+2 0.6365, 3+3 0.6931, 3+2+1 1.0114.
    """
    terms = np.log(np.arange(len(votes) + 1) / len(votes) + 1e-5)  # of so many members that agree
    total = np.zeros(votes.shape[1:])
    for vote in votes:
        total += terms[(votes == vote).sum(0, dtype=np.uint8)]
    return (-total / len(votes)).astype(np.float32)


def vote_levels(votes: Labels) -> tuple[Labels, dict[int, str]]:
    """(level (...), {level: split as text, "5+1" say}): how the members split, exactly, whatever the entropy."""
    count = np.sort(agreement(votes), axis=0)[::-1]
    code = np.zeros(votes.shape[1:], np.int64)
    for row in count:
        code = code * (len(votes) + 1) + row
    found, first = np.unique(code, return_index=True)
    splits = {}
    for level, index in zip(found, first):
        column = count.reshape(len(votes), -1)[:, index]
        splits[int(level)] = "+".join(str(c) for c in np.unique(column)[::-1] for _ in range((column == c).sum() // c))
    return code, splits


def disagreement(entropy: Floats, labels: Labels, numbers: Iterable[int]) -> dict[int, dict[str, float | None]]:
    """{number: {"disagreement", "disputed"}}: the mean entropy of the votes over the voxels of each label, and the
    share of them on which the members were not all of one mind; None where the label has no voxel."""
    places = np.flatnonzero(labels)
    label, value = labels.ravel()[places], entropy.ravel()[places]
    length = max([0, *numbers]) + 1
    voxels, total, disputed = (np.bincount(label, weights, minlength=length) for weights in (None, value, value > 0))
    return {n: {"disagreement": max(0.0, float(total[n] / voxels[n])) if voxels[n] else None,
                "disputed": float(disputed[n] / voxels[n]) if voxels[n] else None} for n in numbers}


def most_disputed(components: Sequence[Row], entropy: Floats | None) -> Row:
    """{"disagreement": of the component the members agree on least}, of `list_components`; empty without an ensemble.
    """
    return {} if entropy is None else {"disagreement": max((row["disagreement"] for row in components), default=None)}
