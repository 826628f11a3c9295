"""The losses of all stages; each the form of the authors' code. Labels are class ids, masks are 0 and 1."""
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def backbone_loss(logits: Tensor, target: Tensor, alpha: Sequence[float] | None, presence: Tensor | None = None,
                  dice_weight: float = 0.2) -> dict[str, Tensor]:
    """The named, weighted terms of the main network's loss; their sum is optimised."""
    return {"focal": focal_loss(logits, target, alpha, presence),
            "dice": dice_weight * adaptive_dice_loss(logits, target, presence)}


def merge_undrawn(logits: Tensor, presence: Tensor) -> Tensor:
    """Logits (B, C, Z, Y, X) in which the background of a sample takes in the organs that nobody drew there, presence
    (B, C) of 0, 1: their probabilities are added up, theirs become 0. Unchanged where every organ was drawn."""
    undrawn = presence[:, :, None, None, None] == 0
    others = undrawn.clone()
    others[:, 0] = True  # the background itself
    lowest = torch.finfo(logits.dtype).min
    background = logits.masked_fill(~others, lowest).logsumexp(1, keepdim=True)
    return torch.cat([background, logits.masked_fill(undrawn, lowest)[:, 1:]], dim=1)


def focal_loss(logits: Tensor, target: Tensor, alpha: Sequence[float] | None, presence: Tensor | None = None,
               gamma: float = 2.0) -> Tensor:
    """Mean over all voxels of -presence alpha (1 - p)^gamma log p of the true class.

    logits (B, C, Z, Y, X), target (B, 1, Z, Y, X) or without the 1, alpha: C weights (None: 1), presence (B, C) of 0
    and 1.
    """
    target = _ids(logits, target)
    log_p = logits.log_softmax(1).gather(1, target)
    loss = -(1 - log_p.exp()) ** gamma * log_p
    if alpha is not None:
        loss = loss * torch.as_tensor(alpha, dtype=loss.dtype, device=loss.device)[target]
    if presence is not None:
        loss = loss * presence.to(loss.dtype)[:, :, None, None, None].expand_as(logits).gather(1, target)
    return loss.mean()


def adaptive_dice_loss(logits: Tensor, target: Tensor, presence: Tensor | None = None) -> Tensor:
    """1 - TP / (TP + a FP + (1 - a) FN), a = FP / (FP + FN) within 0.2 to 0.8; the mean over classes.

    Counts are taken over the batch, so presence (B, C) weighs a class by the share of samples that have it.
    """
    onehot = F.one_hot(_ids(logits, target)[:, 0], logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    probability = logits.softmax(1)
    if presence is None:
        return _adaptive_dice(probability, onehot).mean()
    weight = presence.to(logits.dtype)
    present = weight[:, :, None, None, None]
    loss = _adaptive_dice(probability * present, onehot * present)
    return (loss * weight.mean(0)).sum() / weight.mean(0).sum().clamp_min(1e-5)


def heatmap_loss(heatmap: Tensor, target: Tensor, presence: Tensor) -> Tensor:
    """Mean squared error (B, C, Z, Y, X) over the organs that a case has: presence (B, C) of 0, 1."""
    error = (heatmap - target).square().mean((2, 3, 4))
    return (error * presence).sum() / presence.sum().clamp_min(1)


def binary_focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.5, gamma: float = 2.0,
                      textbook: bool = False) -> Tensor:
    """Focal loss of one organ. The authors' background term takes log-sigmoid(1 - z); textbook: log-sigmoid(-z)."""
    target, probability = target.to(logits.dtype), logits.sigmoid()
    foreground = alpha * target * (1 - probability) ** gamma * F.logsigmoid(logits)
    background = (1 - alpha) * (1 - target) * probability ** gamma * F.logsigmoid((0 if textbook else 1) - logits)
    loss = -(foreground + background)
    return loss.mean()


def binary_adaptive_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """`adaptive_dice_loss` of one organ: logits and target (B, 1, Z, Y, X), counted over the batch."""
    return _adaptive_dice(logits.sigmoid(), target.to(logits.dtype)).mean()


def critic_loss(logits: Tensor, target: Tensor, of_prediction: Sequence[Tensor],
                of_target: Sequence[Tensor]) -> dict[str, Tensor]:
    """The named, weighted terms of the auto-encoder: reconstruct both masks, and tell the prediction from the truth.

    logits, target (B, 1, Z, Y, X); of_*: (reconstruction, code, feature 1, feature 2) of the auto-encoder.
    """
    code, feature1, feature2 = (F.mse_loss(*pair) for pair in zip(of_prediction[1:], of_target[1:]))
    reconstruction = (F.mse_loss(of_prediction[0], logits.detach().sigmoid())
                      + F.mse_loss(of_target[0], target.to(logits.dtype)))
    return {"reconstruction": 0.999 * reconstruction,
            "distance": -0.001 * (code + 0.2 * feature1 + 0.2 * feature2)}


def segmenter_loss(logits: Tensor, target: Tensor, of_prediction: Sequence[Tensor] | None = None,
                   of_target: Sequence[Tensor] | None = None, alpha: float = 0.5, textbook: bool = False,
                   code_weight: float = 5.0) -> dict[str, Tensor]:
    """The named, weighted terms of the branches; without the auto-encoder's outputs, those of segmentation alone."""
    terms = {"focal": binary_focal_loss(logits, target, alpha, textbook=textbook),
             "dice": 0.5 * binary_adaptive_dice_loss(logits, target)}
    if of_prediction is None or of_target is None:
        return terms
    code, feature1, feature2 = (F.mse_loss(*pair) for pair in zip(of_prediction[1:], of_target[1:]))
    return {**terms, "code": code_weight * code, "feature1": feature1, "feature2": feature2,
            "mask": F.mse_loss(logits.sigmoid(), target.to(logits.dtype))}


def _adaptive_dice(probability, onehot):
    """Loss per class (C,). The weight a is not detached (authors)."""
    axes = (0, 2, 3, 4)
    true_positive = (probability * onehot).sum(axes)
    false_positive = (probability * (1 - onehot)).sum(axes)
    false_negative = ((1 - probability) * onehot).sum(axes)
    weight = (false_positive / (false_positive + false_negative + 1e-5)).clamp(0.2, 0.8)
    return 1 - true_positive / (true_positive + weight * false_positive + (1 - weight) * false_negative + 1e-5)


def _ids(logits, target):
    """Class ids as (B, 1, Z, Y, X) of integers."""
    return (target if target.dim() == logits.dim() else target[:, None]).long()
