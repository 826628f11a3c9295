"""Losses of class probabilities (B, C, Z, Y, X) against labels (B, Z, Y, X) of class ids; class 0 is background."""
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from sepnet.config import Config


class ExpDiceLoss(nn.Module):
    """Logarithmic Dice of every class, plus the cross-entropy of the foreground, in which rare classes weigh more.

    normalisation: "original" is what the authors' code computes, since it swaps two arguments of its Dice (smoothing by
    the number of classes, sum over them); "paper" smooths by 1 and takes the mean over classes.
    """

    def __init__(self, n_classes: int, normalisation: str = "original") -> None:
        super().__init__()
        self.n_classes, self.normalisation = n_classes, normalisation

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        onehot = one_hot(labels, self.n_classes)
        return self.log_dice(probabilities, onehot) + weighted_cross_entropy(probabilities, onehot)

    def log_dice(self, scores: Tensor, onehot: Tensor) -> Tensor:
        """Sum or mean over the classes of `scores`, mean over samples."""
        n_classes = scores.shape[1]
        smooth = n_classes if self.normalisation == "original" else 1
        overlap, total = (scores * onehot).sum((2, 3, 4)), scores.sum((2, 3, 4)) + onehot.sum((2, 3, 4))
        terms = -(2 * (overlap + smooth) / (total + 2 * smooth)).log()  # (B, C)
        return terms.sum(1).mean() if self.normalisation == "original" else terms.mean()


class AttentionExpDiceLoss(ExpDiceLoss):
    """The paper's loss: foreground probabilities p first become p exp((p - g) / alpha), so that hard voxels weigh more.
    """

    def __init__(self, n_classes: int, alpha: float = 0.5, normalisation: str = "original") -> None:
        super().__init__(n_classes, normalisation)
        self.alpha = alpha

    def log_dice(self, scores: Tensor, onehot: Tensor) -> Tensor:
        scores, onehot = scores[:, 1:], onehot[:, 1:]
        return super().log_dice(scores * ((scores - onehot) / self.alpha).exp(), onehot)


class SoftDiceLoss(nn.Module):
    """1 - mean Dice over samples and classes, background included; each of its three sums is smoothed by 0.01."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        onehot = one_hot(labels, self.n_classes)
        overlap = (probabilities * onehot).sum((2, 3, 4)) + 0.01
        return 1 - (2 * overlap / (probabilities.sum((2, 3, 4)) + onehot.sum((2, 3, 4)) + 0.02)).mean()


class FocalLoss(nn.Module):
    """Mean over voxels of -(1 - p)^gamma log p of the true class."""

    def __init__(self, n_classes: int, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        true = probabilities.gather(1, labels[:, None].long())
        return -((1 - true) ** self.gamma * safe_log(true)).mean()


class FocalDiceLoss(nn.Module):
    """Focal loss + soft Dice loss."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.focal, self.dice = FocalLoss(n_classes), SoftDiceLoss(n_classes)

    def forward(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        return self.focal(probabilities, labels) + self.dice(probabilities, labels)


class PartlyDrawnLoss(nn.Module):
    """A published loss for partly drawn cases: organs that nobody drew in a sample become part of its background, and
    the background, which the published losses leave out, gets a logarithmic Dice and a mean cross-entropy.

    drawn (B, C): 1 for every class that was drawn in the sample, background included; None: all were.
    """

    def __init__(self, published: nn.Module) -> None:
        super().__init__()
        self.published = published

    def forward(self, probabilities: Tensor, labels: Tensor, drawn: Tensor | None = None) -> Tensor:
        if drawn is not None:
            probabilities = merge_undrawn(probabilities, drawn)
        background, true = probabilities[:, 0], (labels == 0).to(probabilities.dtype)
        overlap, total = (background * true).sum((1, 2, 3)), (background + true).sum((1, 2, 3))
        dice = ((2 * overlap + 1) / (total + 1)).log().mean()
        cross_entropy = (true * safe_log(background)).sum() / true.sum().clamp_min(1)
        return self.published(probabilities, labels) - dice - cross_entropy


def build_loss(config: "Config") -> nn.Module:
    """The loss that a `Config` names."""
    published = {
        "attention_exp_dice": lambda n: AttentionExpDiceLoss(n, config.alpha, config.normalisation),
        "exp_dice": lambda n: ExpDiceLoss(n, config.normalisation),
        "soft_dice": SoftDiceLoss, "focal": FocalLoss, "focal_dice": FocalDiceLoss}[config.loss](config.n_classes)
    return PartlyDrawnLoss(published) if config.undrawn == "marginal" else published


def merge_undrawn(probabilities: Tensor, drawn: Tensor) -> Tensor:
    """Probabilities (B, C, Z, Y, X) after those of the classes with flag 0 in `drawn` (B, C) were moved to the
    background.
    """
    undrawn = drawn[:, :, None, None, None] == 0
    others = undrawn.clone()
    others[:, 0] = True  # the background itself
    background = probabilities.masked_fill(~others, 0).sum(1, keepdim=True)
    return torch.cat([background, probabilities.masked_fill(undrawn, 0)[:, 1:]], dim=1)


def weighted_cross_entropy(probabilities: Tensor, onehot: Tensor) -> Tensor:
    """Cross-entropy of the foreground voxels; class c is weighted by sqrt(foreground / voxels of c)."""
    foreground = onehot[:, 1:]
    voxels = foreground.sum((2, 3, 4)) + 1  # (B, C - 1)
    weight = (voxels.sum() / voxels.sum(0)).sqrt()
    per_class = -(foreground * safe_log(probabilities[:, 1:])).sum((0, 2, 3, 4))
    return (weight * per_class).sum() / voxels.sum()


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """(B, Z, Y, X) -> (B, n_classes, Z, Y, X), float32."""
    return F.one_hot(labels.long(), n_classes).movedim(-1, 1).float()


def safe_log(probability: Tensor) -> Tensor:
    """log, finite at 0."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()
