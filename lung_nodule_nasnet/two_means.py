"""The best cut of numbers into two classes (1-D 2-means), exact: no start, no iteration."""
import numpy as np

from shared_data.named_types import Array

HISTOGRAM_RANGE = 1 << 17  # whole numbers within a range of this size are counted, others sorted


def two_means_threshold(values: Array) -> float:
    """The middle between the centres of the two classes with the least squared distance to their centres.

    values: any shape, finite. All equal: that value. Raises ValueError without values.
    """
    low, high = two_means_centres(values)
    return (low + high) / 2


def two_means_centres(values: Array) -> tuple[float, float]:
    """(lower centre, upper centre) of the two classes; both the value itself where all are equal."""
    values = np.ravel(values)
    if values.size == 0:
        raise ValueError("two_means needs at least one value")
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < HISTOGRAM_RANGE:
        low = int(values.min())
        counts = np.bincount(values.astype(np.int64) - low)
        return counted_centres(np.arange(low, low + len(counts)), counts)
    return counted_centres(np.sort(values), None)


def counted_centres(levels: Array, counts: Array | None) -> tuple[float, float]:
    """The centres for sorted `levels` that occur `counts` times each (None: once)."""
    levels = levels.astype(np.float64)
    middle = levels.mean()  # differences of large sums lose digits
    levels = levels - middle
    number = np.arange(1, len(levels) + 1) if counts is None else np.cumsum(counts)
    total = np.cumsum(levels if counts is None else levels * counts)
    below, above = number[:-1], number[-1] - number[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = total[:-1] / below, (total[-1] - total[:-1]) / above
        between = np.where((below > 0) & (above > 0), below * above * (high - low) ** 2, -1.0)
    if between.size == 0 or between.max() <= 0:
        value = float(total[-1] / number[-1] + middle)
        return value, value
    best = int(between.argmax())
    return float(low[best] + middle), float(high[best] + middle)


def stopped_two_means_threshold(values: Array) -> float:
    """The cut where an iteration from the mean stops as scikit-learn's does, a little before the best one.

    It ends when the centres move by less than 1e-4 of the variance (squared). The authors' cut.
    """
    levels = np.sort(np.ravel(values)).astype(np.float64)
    total = np.concatenate([[0.0], np.cumsum(levels)])
    cut, centres = levels.mean(), None
    while True:
        below = int(np.clip(np.searchsorted(levels, cut), 1, len(levels) - 1))
        moved = np.array([total[below] / below, (total[-1] - total[below]) / (len(levels) - below)])
        cut = moved.mean()
        if centres is not None and ((moved - centres) ** 2).sum() <= 1e-4 * levels.var():
            return float(cut)
        centres = moved
