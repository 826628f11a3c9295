"""Stage 1, the main network alone: python train_backbone.py [--resume]

Focal and adaptive Dice loss weighted by which organs a case has; SGD. Writes to <run>/backbone: config.json,
history.csv, curves.png, tensorboard/, last.pt, best.pt.
"""
import torch

from focusnet_v2.augment import augment
from focusnet_v2.dataset import PatchDataset, load_cases
from focusnet_v2.engine import Stage, run_script_of
from focusnet_v2.losses import backbone_loss
from focusnet_v2.networks import build_network
from shared_data.errors import run_script


class Backbone(Stage):
    name = "backbone"

    def __init__(self, config):
        self.config = config
        network = build_network(config, self.name)
        self.networks = {"model": network}
        self.optimizers = [("model", sgd(network.parameters(), config.backbone_lr))]
        self.dataset = PatchDataset(load_cases(config, "train"), config, config.wide_zoom_xy)
        self.cases = load_cases(config, "valid")

    def rates(self, epoch):
        return [sgd_rate(epoch, self.config.backbone_lr, self.config.backbone_warmup, self.config.backbone_milestones)]

    def loss_terms(self, networks, batch):
        batch = augment(batch, self.config)
        return backbone_loss(networks["model"](batch["image"]).float(), batch["label"], self.config.alpha,
                             batch["presence"], self.config.dice_weight)


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


def sgd_rate(epoch, lr, warmup, milestones):
    """lr * e^(10 (epoch / warmup - 1)) while warming up, then divided by 10 from each milestone on (authors)."""
    if epoch < warmup:
        return lr * torch.tensor(10 * (epoch / warmup - 1)).exp().item()
    return lr * 0.1 ** sum(epoch >= milestone for milestone in milestones)


def main(argv=None):
    run_script_of(Backbone, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
