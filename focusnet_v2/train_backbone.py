"""Stage 1, the main network alone: python train_backbone.py [--resume]

Focal and adaptive Dice loss weighted by which organs a case has; SGD. Writes to <run>/backbone: config.json,
history.csv, curves.png, tensorboard/, last.pt, best.pt.
"""
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from focusnet_v2.config import Config, TrainBackbone
from focusnet_v2.dataset import Case, PatchDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Stage, Terms, run_script_of
from focusnet_v2.inference import Outputs
from focusnet_v2.losses import backbone_loss, merge_undrawn
from focusnet_v2.networks import SNet, build_network, leave_out
from shared_data.errors import run_script


class Backbone(Stage):
    name, options = "backbone", TrainBackbone

    def __init__(self, config: Config) -> None:
        self.config = config
        network = build_network(config, self.name)
        self.networks = {"model": network}
        self.optimizers = [("model", sgd(network.parameters(), config.backbone_lr))]
        cases = load_cases(config, "train")
        leave_out_untaught(network, cases, config)
        self.dataset = PatchDataset(cases, config, config.wide_zoom_xy)
        self.cases = load_cases(config, "valid")

    def rates(self, epoch: int) -> list[float]:
        return [sgd_rate(epoch, self.config.backbone_lr, self.config.backbone_warmup, self.config.backbone_milestones)]

    def terms(self, networks: Networks, outputs: Outputs, batch: Batch) -> Terms:
        return main_terms(outputs["logits"], batch, self.config)


def main_terms(logits: torch.Tensor, batch: Batch, config: Config) -> Terms:
    """The main network's terms. undrawn "marginal": in a case, background and what nobody drew there are one class."""
    logits = logits.float()
    if config.undrawn == "marginal":
        logits = merge_undrawn(logits, batch["presence"])
    return backbone_loss(logits, batch["label"], config.alpha, batch["presence"], config.dice_weight)


def leave_out_untaught(network: SNet, cases: Sequence[Case], config: Config) -> None:
    """Organs that no training case has never come out of a new S-Net: nothing tells them from the background."""
    taught = np.any([case["presence"] for case in cases], axis=0)
    untaught = [c for c in range(1, config.n_classes) if not taught[c]]
    if untaught and config.undrawn == "marginal":
        leave_out(network.head, untaught)
        print(f"note: in no training case, so left out: {', '.join(config.classes[c] for c in untaught)}")


def sgd(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


def sgd_rate(epoch: int, lr: float, warmup: int, milestones: Sequence[int]) -> float:
    """lr * e^(10 (epoch / warmup - 1)) while warming up, then divided by 10 from each milestone on (authors)."""
    if epoch < warmup:
        return lr * torch.tensor(10 * (epoch / warmup - 1)).exp().item()
    return lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(Backbone, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
