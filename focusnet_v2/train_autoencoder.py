"""Stage 3, what small organs look like: python train_autoencoder.py [--resume]

The shape auto-encoder learns to reconstruct the masks of the small organs, in boxes jittered around their centres; mean
squared error, Adam. The authors did not publish this code: rate and loss are the paper's; jitter, batch and epochs
ours. Writes to <run>/autoencoder as train_backbone.py does.
"""
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from focusnet_v2.config import Config, TrainAutoencoder
from focusnet_v2.dataset import MaskDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Stage, Terms, run_script_of
from focusnet_v2.networks import build_network
from shared_data.errors import InputError, run_script
from shared_data.metrics import dice


class Autoencoder(Stage):
    name, options = "autoencoder", TrainAutoencoder

    def __init__(self, config: Config) -> None:
        self.config, self.batch_size = config, config.ae_batch
        network = build_network(config, self.name)
        self.networks = {"model": network}
        self.optimizers = [("model", torch.optim.Adam(network.parameters(), config.ae_lr,
                                                     weight_decay=config.ae_weight_decay))]
        self.dataset = MaskDataset(load_cases(config, "train"), config, config.ae_jitter_zyx)
        self.masks = MaskDataset(load_cases(config, "valid"), config)
        if not len(self.dataset):
            raise InputError(f"{config.prepared_dir}: no training case has a small organ, so there is no shape to "
                             "learn. Leave this stage out: train.py or adv_train.py with --no-shape-constraint.")

    def rates(self, epoch: int) -> list[float]:
        return [self.config.ae_lr]

    def loss_terms(self, networks: Networks, batch: Batch) -> Terms:
        reconstruction, *_ = networks["model"](batch["mask"])
        return {"reconstruction": F.mse_loss(reconstruction, batch["mask"])}

    @torch.inference_mode()
    def validate(self, fabric: Fabric, networks: Networks) -> dict[str, float]:
        """Mean squared error of the masks of the validation cases, in boxes on their centres; Dice, each organ's mean,
        then over organs."""
        network = networks["model"].module
        rows = torch.zeros(len(self.masks.masks), 1 + self.config.n_small, device=fabric.device)
        for i in range(fabric.global_rank, len(rows), fabric.world_size):
            mask = self.masks[0, i]["mask"].to(fabric.device)
            reconstruction, *_ = network(mask[None])
            rows[i] = float("nan")
            rows[i, 0] = F.mse_loss(reconstruction, mask[None])
            organ = 1 + self.masks.masks[i][1]
            rows[i, organ] = dice(mask.cpu().numpy() > 0.5, (reconstruction[0] > 0.5).cpu().numpy())
        rows = torch.as_tensor(fabric.all_reduce(rows, reduce_op="sum"))  # each mask is one process'
        return {"val_loss": rows[:, 0].mean().item(), "val_dice": rows[:, 1:].nanmean(0).nanmean().item()}


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(Autoencoder, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
