"""Stages 1 and 2 at once, instead of one after the other: python train_backbone_heatmap.py [--resume]

Loss of stage 1 plus twice the heatmaps' squared error; SGD for the main network, Adam for the heatmap head. Writes to
<run>/backbone_heatmap as train_backbone.py does.
"""
from collections.abc import Sequence

import torch

from focusnet_v2.config import Config, TrainJoint
from focusnet_v2.dataset import PatchDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Stage, Terms, run_script_of
from focusnet_v2.inference import Outputs
from focusnet_v2.losses import heatmap_loss
from focusnet_v2.networks import build_network
from focusnet_v2.train_backbone import leave_out_untaught, main_terms, sgd, sgd_rate
from shared_data.errors import run_script


class Joint(Stage):
    name, options = "backbone_heatmap", TrainJoint

    def __init__(self, config: Config) -> None:
        self.config = config
        network = build_network(config, self.name)
        self.networks = {"model": network}
        head = torch.optim.Adam(network.localise.parameters(), config.joint_head_lr, weight_decay=5e-4)
        self.optimizers = [("model", sgd(network.backbone.parameters(), config.joint_lr)), ("model", head)]
        cases = load_cases(config, "train")
        leave_out_untaught(network.backbone, cases, config)
        self.dataset = PatchDataset(cases, config, config.wide_zoom_xy, with_heatmap=True)
        self.cases = load_cases(config, "valid")

    def rates(self, epoch: int) -> list[float]:
        config = self.config
        return [sgd_rate(epoch, config.joint_lr, config.joint_warmup, config.joint_milestones),
                config.joint_head_lr * 0.25 ** sum(epoch >= milestone for milestone in config.joint_milestones)]

    def terms(self, networks: Networks, outputs: Outputs, batch: Batch) -> Terms:
        config = self.config
        error = heatmap_loss(outputs["heatmap"].float(), batch["heatmap"], batch["presence"][:, config.small_labels])
        return {**main_terms(outputs["logits"], batch, config), "heatmap": config.joint_heatmap_weight * error}


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(Joint, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
