"""Stage 4, the small organs' branches, with the auto-encoder as critic of their shape: python adv_train.py [--resume]

Main network and heatmaps are frozen. Two Adams take turns: the branches' (focal, Dice and shape loss; the first two
alone with --no-shape-constraint), and the critic's. Starts from the best.pt of SOL (of backbone_heatmap with
--localisation joint) and of autoencoder, writes to <run>/adversarial as train_backbone.py does.
"""
from collections.abc import Iterable, Sequence

import torch
from lightning_fabric import Fabric

from focusnet_v2.augment import augment
from focusnet_v2.checkpoint import load_stage
from focusnet_v2.config import Config
from focusnet_v2.dataset import PatchDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Optimizers, Stage, Terms, run_script_of
from focusnet_v2.losses import critic_loss, segmenter_loss
from focusnet_v2.networks import build_network, cut_boxes
from shared_data.errors import run_script
from shared_data.named_types import Row


Outputs = tuple[torch.Tensor, ...]  # of the auto-encoder


class Adversarial(Stage):
    name = "adversarial"

    def __init__(self, config: Config) -> None:
        self.config = config
        network = build_network(config, self.name)
        self.networks, self.frozen = {"model": network}, [network.backbone, network.localise]
        self.optimizers = [("model", adam(network.branches.parameters(), config.adv_lr))]
        if config.shape_constraint:
            critic = build_network(config, "autoencoder")
            self.networks["critic"] = critic
            self.optimizers.append(("critic", adam(critic.parameters(), config.adv_critic_lr)))
        if not config.resume:
            load_stage(config, "SOL" if config.localisation == "SOL" else "backbone_heatmap", network, part=True)
            if config.shape_constraint:
                load_stage(config, "autoencoder", critic)
        self.dataset = PatchDataset(load_cases(config, "train"), config, config.zoom, top_share=config.adv_top_share)
        self.cases = load_cases(config, "valid")

    def rates(self, epoch: int) -> list[float]:
        return [self.config.adv_lr, self.config.adv_critic_lr][:len(self.optimizers)]

    def step(self, fabric: Fabric, networks: Networks, optimizers: Optimizers, batch: Batch) -> Terms:
        """One update of the branches, then one of the critic."""
        batch = augment(batch, self.config)
        outputs = networks["model"](batch["image"])
        logits, target = outputs["small"].float(), self.targets(batch["label"], outputs["corners"])
        known = batch["small"] > 0  # the case has the organ, and the patch its centre
        share = 1.0 if known.any() else 0.0  # nothing to learn from this patch: a loss of 0, on all of it
        chosen = known if known.any() else torch.ones_like(known)
        logits, target = logits[chosen][:, None], target[chosen][:, None]
        critic = networks.get("critic")
        judged: tuple[Outputs | None, Outputs | None] = (None, None)
        if critic:
            critic.requires_grad_(False)
            judged = halves(critic.module(torch.cat([logits.sigmoid(), target])))
        terms = segmenter_loss(logits, target, *judged, textbook=self.config.textbook_focal,
                               code_weight=self.config.adv_code_weight)
        terms = {name: share * term for name, term in terms.items()}
        self.update(fabric, terms, optimizers[:1])
        if not critic:
            return terms
        critic.requires_grad_(True)
        learnt = halves(critic(torch.cat([logits.detach().sigmoid(), target])))
        of_critic = {f"critic_{name}": share * term for name, term in critic_loss(logits, target, *learnt).items()}
        self.update(fabric, of_critic, optimizers[1:])
        return {**terms, **of_critic}

    def targets(self, label: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        """The masks (B, n_small, *box_zyx) of the small organs in their boxes."""
        return torch.stack([cut_boxes(label == organ, corners[:, i], self.config.box_zyx)[:, 0]
                            for i, organ in enumerate(self.config.small_labels)], dim=1).float()

    def score(self, row: Row) -> float:
        return row["val_small_dice"]


def halves(outputs: Iterable[torch.Tensor]) -> tuple[Outputs, Outputs]:
    """What the critic says of the predictions, and of the true masks, which it saw in one batch."""
    of_prediction, of_target = zip(*(tensor.chunk(2) for tensor in outputs))
    return of_prediction, of_target


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr, weight_decay=1e-4)


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(Adversarial, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
