"""Losses on class probabilities (B, C, Z, Y, X) against labels (B, Z, Y, X) of class ids; class 0 is background."""
import torch
from torch import nn
from torch.nn import functional as F


class ExpDiceLoss(nn.Module):
    """Logarithmic Dice of every class, plus the cross-entropy of the foreground, rare classes weighing more.

    normalisation "original" is the effective formula of the authors' code, which swaps two arguments of its Dice:
    smoothing with the number of classes, sum over them. "paper": smoothing with 1, mean over them.
    """

    def __init__(self, n_classes, normalisation="original"):
        super().__init__()
        self.n_classes, self.normalisation = n_classes, normalisation

    def forward(self, probabilities, labels):
        onehot = one_hot(labels, self.n_classes)
        return self.log_dice(probabilities, onehot) + weighted_cross_entropy(probabilities, onehot)

    def log_dice(self, scores, onehot):
        """Sum or mean over the classes given, mean over samples."""
        n_classes = scores.shape[1]
        smooth = n_classes if self.normalisation == "original" else 1
        overlap, total = (scores * onehot).sum((2, 3, 4)), scores.sum((2, 3, 4)) + onehot.sum((2, 3, 4))
        terms = -(2 * (overlap + smooth) / (total + 2 * smooth)).log()  # (B, C)
        return terms.sum(1).mean() if self.normalisation == "original" else terms.mean()


class AttentionExpDiceLoss(ExpDiceLoss):
    """The paper's loss: probabilities p of the foreground become p exp((p - g) / alpha) first: hard voxels weigh more.
    """

    def __init__(self, n_classes, alpha=0.5, normalisation="original"):
        super().__init__(n_classes, normalisation)
        self.alpha = alpha

    def log_dice(self, scores, onehot):
        scores, onehot = scores[:, 1:], onehot[:, 1:]
        return super().log_dice(scores * ((scores - onehot) / self.alpha).exp(), onehot)


class SoftDiceLoss(nn.Module):
    """1 - mean Dice over samples and classes, background included; smoothing 0.01 on each of the three sums."""

    def __init__(self, n_classes):
        super().__init__()
        self.n_classes = n_classes

    def forward(self, probabilities, labels):
        onehot = one_hot(labels, self.n_classes)
        overlap = (probabilities * onehot).sum((2, 3, 4)) + 0.01
        return 1 - (2 * overlap / (probabilities.sum((2, 3, 4)) + onehot.sum((2, 3, 4)) + 0.02)).mean()


class FocalLoss(nn.Module):
    """Mean over voxels of -(1 - p)^gamma log p of the true class."""

    def __init__(self, n_classes, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, probabilities, labels):
        true = probabilities.gather(1, labels[:, None].long())
        return -((1 - true) ** self.gamma * safe_log(true)).mean()


class FocalDiceLoss(nn.Module):
    """Focal loss + soft Dice loss."""

    def __init__(self, n_classes):
        super().__init__()
        self.focal, self.dice = FocalLoss(n_classes), SoftDiceLoss(n_classes)

    def forward(self, probabilities, labels):
        return self.focal(probabilities, labels) + self.dice(probabilities, labels)


def build_loss(config):
    """The loss that a `Config` names."""
    if config.loss == "attention_exp_dice":
        return AttentionExpDiceLoss(config.n_classes, config.alpha, config.normalisation)
    if config.loss == "exp_dice":
        return ExpDiceLoss(config.n_classes, config.normalisation)
    return {"soft_dice": SoftDiceLoss, "focal": FocalLoss, "focal_dice": FocalDiceLoss}[config.loss](config.n_classes)


def weighted_cross_entropy(probabilities, onehot):
    """Cross-entropy on the foreground voxels, class c weighing sqrt(foreground / voxels of c)."""
    foreground = onehot[:, 1:]
    voxels = foreground.sum((2, 3, 4)) + 1  # (B, C - 1)
    weight = (voxels.sum() / voxels.sum(0)).sqrt()
    per_class = -(foreground * safe_log(probabilities[:, 1:])).sum((0, 2, 3, 4))
    return (weight * per_class).sum() / voxels.sum()


def one_hot(labels, n_classes):
    """(B, Z, Y, X) -> (B, n_classes, Z, Y, X), float32."""
    return F.one_hot(labels.long(), n_classes).movedim(-1, 1).float()


def safe_log(probability):
    """log, finite at 0."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()
