"""Stage 2, localisation of the small organs on the frozen main network: python train_SOL.py [--resume]

Mean squared error of the heatmaps of the organs that a case has; Adam. Starts from <run>/backbone/best.pt, writes to
<run>/SOL as train_backbone.py does.
"""
from collections.abc import Sequence

import torch

from focusnet_v2.checkpoint import load_stage
from focusnet_v2.config import Config, TrainSOL
from focusnet_v2.dataset import PatchDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Stage, Terms, run_script_of
from focusnet_v2.inference import Outputs
from focusnet_v2.losses import heatmap_loss
from focusnet_v2.networks import build_network
from shared_data.errors import run_script
from shared_data.named_types import Row


class SOL(Stage):
    name, options = "SOL", TrainSOL

    def __init__(self, config: Config) -> None:
        self.config = config
        network = build_network(config, self.name)
        if not config.resume:
            load_stage(config, "backbone", network.backbone)
        self.networks, self.frozen = {"model": network}, [network.backbone]
        self.optimizers = [("model", torch.optim.Adam(network.localise.parameters(), config.sol_lr, weight_decay=5e-4))]
        self.dataset = PatchDataset(load_cases(config, "train"), config, config.zoom, with_heatmap=True)
        self.cases = load_cases(config, "valid")

    def rates(self, epoch: int) -> list[float]:
        return [self.config.sol_lr * 0.25 ** sum(epoch >= milestone for milestone in self.config.sol_milestones)]

    def terms(self, networks: Networks, outputs: Outputs, batch: Batch) -> Terms:
        presence = batch["presence"][:, self.config.small_labels]
        return {"heatmap": heatmap_loss(outputs["heatmap"].float(), batch["heatmap"], presence)}

    def score(self, row: Row) -> float:
        return -row["val_centre_mm"]


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(SOL, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
