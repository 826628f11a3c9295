"""Scores of slices as the paper's code reports them."""
import math

import numpy as np

from shared_data.named_types import Floats, Mask


def slice_scores(reference: Mask, prediction: Mask) -> dict[str, float]:
    """Dice, Jaccard, recall and precision of a slice (y, x), boolean. NaN if undefined; precision without prediction:
    0."""
    intersection, union = int((reference & prediction).sum()), int((reference | prediction).sum())
    n_reference, n_prediction = int(reference.sum()), int(prediction.sum())
    return {"dice": _ratio(2 * intersection, n_reference + n_prediction),
            "jaccard": _ratio(intersection, union), "recall": _ratio(intersection, n_reference),
            "precision": intersection / n_prediction if n_prediction else 0.0}


def slice_dice_as_published(reference: Mask, prediction: Mask) -> float:
    """Mean Dice over all slices (z, y, x); an empty slice predicted as empty counts as 1 (authors' code)."""
    scores = [slice_scores(*pair)["dice"] for pair in zip(reference, prediction)]
    return float(np.mean([1.0 if math.isnan(score) else score for score in scores]))


def probability_correction(logits: Floats, threshold: float) -> Floats:
    """The authors' 'correction' before thresholding, on a copy: logits above a cut are divided by the share of pixels
    above it, then logits below by the share below, counted after the first step.

    Their cut, log(1/t - 1 + 1e-6), is minus the logit of the threshold t; kept as it is.
    """
    cut = math.log(1 / threshold - 1 + 1e-6)
    logits = logits.copy()
    for side in (np.greater, np.less_equal):
        chosen = side(logits, cut)
        if chosen.any():
            logits[chosen] /= chosen.mean()
    return logits


def _ratio(part, whole):
    return part / whole if whole else math.nan
