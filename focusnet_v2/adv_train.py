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
from focusnet_v2.config import Config, TrainAdversarial
from focusnet_v2.dataset import PatchDataset, load_cases
from focusnet_v2.engine import Batch, Networks, Optimizers, Stage, Terms, run_script_of
from focusnet_v2.inference import Outputs
from focusnet_v2.losses import critic_loss, segmenter_loss
from focusnet_v2.networks import build_network, cut_boxes
from shared_data.errors import run_script
from shared_data.named_types import Row


Judgement = tuple[torch.Tensor, ...]  # outputs of the auto-encoder for masks


class Adversarial(Stage):
    name, options = "adversarial", TrainAdversarial

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
        organs = batch["small"] > 0
        share = 1.0 if organs.any() else 0.0  # nothing to learn from this patch: a loss of 0, on all of it
        logits, target = self.in_boxes(networks["model"](batch["image"]), batch["label"],
                                       organs if organs.any() else torch.ones_like(organs))
        critic = networks.get("critic")
        judged: tuple[Judgement, Judgement] | tuple[None, None] = (None, None)
        if critic:
            critic.requires_grad_(False)
            judged = halves(critic.module(torch.cat([logits.sigmoid(), target])))
        terms = {name: share * term for name, term in self.branch_terms(logits, target, *judged).items()}
        self.update(fabric, terms, optimizers[:1])
        if not critic:
            return terms
        critic.requires_grad_(True)
        learnt = halves(critic(torch.cat([logits.detach().sigmoid(), target])))
        of_critic = {name: share * term for name, term in critic_terms(logits, target, *learnt).items()}
        self.update(fabric, of_critic, optimizers[1:])
        return {**terms, **of_critic}

    def terms(self, networks: Networks, outputs: Outputs, batch: Batch) -> Terms | None:
        """While validating: what `step` adds up; None for a window without the centre of a small organ."""
        organs = batch["small"] > 0
        if not organs.any():
            return None
        logits, target = self.in_boxes(outputs, batch["label"], organs)
        if "critic" not in networks:
            return self.branch_terms(logits, target)
        judged = halves(networks["critic"].module(torch.cat([logits.sigmoid(), target])))
        return {**self.branch_terms(logits, target, *judged), **critic_terms(logits, target, *judged)}

    def in_boxes(self, outputs: Outputs, label: torch.Tensor,
                 organs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits of the branches, masks in their boxes), both (n, 1, *box_zyx), of the small organs that are True in
        `organs` (B, n_small)."""
        target = torch.stack([cut_boxes(label == organ, outputs["corners"][:, i], self.config.box_zyx)[:, 0]
                              for i, organ in enumerate(self.config.small_labels)], dim=1).float()
        return outputs["small"].float()[organs][:, None], target[organs][:, None]

    def branch_terms(self, logits: torch.Tensor, target: torch.Tensor, of_prediction: Judgement | None = None,
                     of_target: Judgement | None = None) -> Terms:
        return segmenter_loss(logits, target, of_prediction, of_target, textbook=self.config.textbook_focal,
                              code_weight=self.config.adv_code_weight)

    def score(self, row: Row) -> float:
        return row["val_small_dice"]


def critic_terms(logits: torch.Tensor, target: torch.Tensor, of_prediction: Judgement, of_target: Judgement) -> Terms:
    terms = critic_loss(logits, target, of_prediction, of_target)
    return {f"critic_{name}": term for name, term in terms.items()}


def halves(outputs: Iterable[torch.Tensor]) -> tuple[Judgement, Judgement]:
    """What the critic says of the predictions, and of the true masks, which it saw in one batch."""
    of_prediction, of_target = zip(*(tensor.chunk(2) for tensor in outputs))
    return of_prediction, of_target


def adam(parameters: Iterable[torch.nn.Parameter], lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr, weight_decay=1e-4)


def main(argv: Sequence[str] | None = None) -> None:
    run_script_of(Adversarial, argv, __doc__)


if __name__ == "__main__":
    run_script(main)
