"""Losses of logits (B, 1, Y, X) against masks (B, 1, Y, X) of 0 and 1, in the form of the authors' code."""
from torch import Tensor
from torch.nn import functional as F


def snet_loss(outputs: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The terms of the training loss by name, weighted; their sum is optimised. outputs: logits (main, a, b)."""
    main, a, b = outputs
    weight = edge_weight(mask.to(a.dtype))
    (wbce_a, wiou_a), (wbce_b, wiou_b) = structure_loss(a, mask, weight), structure_loss(b, mask, weight)
    return {"tversky": tversky_loss(main, mask), "wbce": 2 * (wbce_a + wbce_b), "wiou": wiou_a + wiou_b}


def tversky_loss(logits: Tensor, target: Tensor, delta: float = 0.7) -> Tensor:
    """1 - TP / (TP + delta FP + (1 - delta) FN) over the whole batch; delta weights the false positives."""
    probability, target = logits.sigmoid(), target.to(logits.dtype)
    true_positive = (probability * target).sum()
    false_positive = (probability * (1 - target)).sum()
    false_negative = ((1 - probability) * target).sum()
    return 1 - true_positive / (true_positive + delta * false_positive + (1 - delta) * false_negative + 1e-5)


def structure_loss(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(wBCE, wIoU) of PraNet, weighted towards the edges of the mask; means over the samples.

    weight: `edge_weight(mask)`, if already computed.
    """
    mask = mask.to(logits.dtype)
    weight = edge_weight(mask) if weight is None else weight
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    wbce = (weight * cross_entropy).sum((2, 3)) / weight.sum((2, 3))
    probability = logits.sigmoid()
    overlap = (weight * probability * mask).sum((2, 3))
    total = (weight * (probability + mask)).sum((2, 3))
    wiou = 1 - (overlap + 1) / (total - overlap + 1)
    return wbce.mean(), wiou.mean()


def edge_weight(mask: Tensor) -> Tensor:
    """1 + 5 |m - mask|, where m is the mean over 31x31 pixels, zeros outside the slice included."""
    mean = F.avg_pool2d(F.avg_pool2d(mask, (31, 1), 1, (15, 0)), (1, 31), 1, (0, 15))
    return 1 + 5 * (mean - mask).abs()


def binary_focal_loss(logits: Tensor, target: Tensor, delta: float = 0.7, gamma: float = 3.0) -> Tensor:
    """The authors' focal loss, logged but not optimised.

    It differs from the textbook's: the foreground has no focusing factor, and the background has log-sigmoid(1 - z) in
    place of log-sigmoid(-z).
    """
    target = target.to(logits.dtype)
    foreground = -delta * target * F.logsigmoid(logits)
    background = -(1 - delta) * (1 - target) * logits.sigmoid() ** gamma * F.logsigmoid(1 - logits)
    return (foreground + background).mean()
