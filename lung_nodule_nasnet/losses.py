"""Losses on one-hot references and probabilities, both (B, Y, X, C): background, nodule. The authors' forms."""
from keras import KerasTensor, ops

EPSILON = 1e-7
CLASS_WEIGHTS = (1.0, 7.0)  # of background and nodule in the cross-entropy (authors)


def gdl_wce_loss(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """The training loss: generalised Dice plus weighted cross-entropy."""
    return generalised_dice_loss(y_true, y_pred) + weighted_cross_entropy(y_true, y_pred)


def generalised_dice_loss(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """1 - 2 sum_c w_c overlap_c / sum_c w_c total_c over the whole batch, w_c = 1 / (reference_c^2 + 1e-7)."""
    y_true, y_pred = ops.cast(y_true, y_pred.dtype), ops.convert_to_tensor(y_pred)
    weight = 1 / (ops.sum(y_true, (0, 1, 2)) ** 2 + EPSILON)
    overlap = ops.sum(weight * ops.sum(y_true * y_pred, (0, 1, 2)))
    total = ops.sum(weight * ops.sum(y_true + y_pred, (0, 1, 2)))
    return 1 - 2 * overlap / total


def weighted_cross_entropy(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Cross-entropy of the renormalised probabilities, classes weighted 1 and 7, mean over the pixels."""
    y_true, y_pred = ops.cast(y_true, y_pred.dtype), ops.convert_to_tensor(y_pred)
    y_pred = ops.clip(y_pred / ops.sum(y_pred, -1, keepdims=True), EPSILON, 1 - EPSILON)
    weight = ops.convert_to_tensor(CLASS_WEIGHTS, dtype=y_pred.dtype)
    return -ops.mean(ops.sum(weight * y_true * ops.log(y_pred), -1))


def dice_coefficient(y_true: KerasTensor, y_pred: KerasTensor) -> KerasTensor:
    """Soft Dice of the nodule channel over the whole batch, smoothing 1: the authors' metric."""
    y_true, y_pred = ops.cast(y_true, y_pred.dtype)[..., 1], ops.convert_to_tensor(y_pred)[..., 1]
    return (2 * ops.sum(y_true * y_pred) + 1) / (ops.sum(y_true) + ops.sum(y_pred) + 1)
