"""Where the members of an ensemble disagree, voxel by voxel and per contour."""
from collections.abc import Iterable, Sequence

import numpy as np

from shared_data.named_types import Floats, Labels, Row


def agreement(votes: Labels) -> Labels:
    """(members, ...): how many members, itself included, vote as each one does; votes (members, ...) of class ids."""
    return np.stack([(votes == vote).sum(0, dtype=np.uint8) for vote in votes])


def vote_entropy(votes: Labels) -> Floats:
    """Entropy (...) in nats of votes (members, ...): -sum p log(p + 1e-5) over classes, float32 (SepNet's authors).

    Unanimity gives -1e-5; six members split 5+1 give 0.4505, 4+2 0.6365, 3+3 0.6931, 3+2+1 1.0114.
    """
    terms = np.log(np.arange(len(votes) + 1) / len(votes) + 1e-5)  # by the number of members that agree
    total = np.zeros(votes.shape[1:])
    for vote in votes:
        total += terms[(votes == vote).sum(0, dtype=np.uint8)]
    return (-total / len(votes)).astype(np.float32)


def vote_levels(votes: Labels) -> tuple[Labels, dict[int, str]]:
    """(level (...), {level: split}): how the members with votes (members, ...) split; a split is text such as "5+1"."""
    counts = np.sort(agreement(votes), axis=0)[::-1]
    levels = np.zeros(votes.shape[1:], np.int64)
    for count in counts:
        levels = levels * (len(votes) + 1) + count
    found, first = np.unique(levels, return_index=True)
    splits = {}
    for level, index in zip(found, first):
        of_members = counts.reshape(len(votes), -1)[:, index]  # 3+2+1: 3 3 3 2 2 1
        parts = []
        while len(of_members):
            parts.append(str(of_members[0]))
            of_members = of_members[of_members[0]:]
        splits[int(level)] = "+".join(parts)
    return levels, splits


def disagreement(entropy: Floats, labels: Labels, numbers: Iterable[int]) -> dict[int, dict[str, float | None]]:
    """{label: {"disagreement", "disputed"}} of the labels called `numbers`: the mean entropy of the votes over the
    label's voxels, and the share of voxels on which the members do not all agree; None for a label without voxels."""
    places = np.flatnonzero(labels)
    label, value = labels.ravel()[places], entropy.ravel()[places]
    length = max([0, *numbers]) + 1
    voxels, total, disputed = (np.bincount(label, weights, minlength=length) for weights in (None, value, value > 0))
    return {n: {"disagreement": max(0.0, float(total[n] / voxels[n])) if voxels[n] else None,
                "disputed": float(disputed[n] / voxels[n]) if voxels[n] else None} for n in numbers}


def most_disputed(components: Sequence[Row], entropy: Floats | None) -> Row:
    """{"disagreement"} of the component of `list_components` on which the members agree least; {} without an ensemble.
    """
    return {} if entropy is None else {"disagreement": max((row["disagreement"] for row in components), default=None)}
