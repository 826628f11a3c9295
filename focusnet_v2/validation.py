"""Loss and scores of a network on the validation cases, whole volumes, while it learns."""
from collections.abc import Callable, Sequence

import numpy as np
import torch
from lightning_fabric import Fabric

from focusnet_v2.config import Config
from focusnet_v2.dataset import Case, targets_at
from focusnet_v2.grids import cut
from focusnet_v2.inference import Outputs, fuse, heatmap_peaks, predict_volume
from shared_data.cohort import overgrown_notes
from shared_data.metrics import dice, overgrown
from shared_data.named_types import Shape

Terms = dict[str, torch.Tensor]  # of a loss
WindowTerms = Callable[[Outputs, dict[str, torch.Tensor]], Terms | None]  # of a window, from outputs and targets


def validate_volumes(fabric: Fabric, network: torch.nn.Module, cases: Sequence[Case], config: Config,
                     terms: WindowTerms, with_heatmap: bool) -> dict[str, float]:
    """{"val_loss" of the windows, "val_dice" of the main network's organs, "val_small_dice" of the small ones after the
    branches, "val_centre_mm" from the heatmaps' peaks to the true centres}.

    Of the loss the mean over the windows that the network is shown of a case, neither turned nor zoomed, then over
    cases; windows of which `terms` is None are left out. Of the scores means over the cases that have an organ, then
    over organs. Without branches or heatmaps these two are left out. The processes share the cases. Says so when a
    class fills more than half of a case.
    """
    rows = torch.zeros(len(cases), 1 + 2 * (config.n_classes + config.n_small), device=fabric.device)
    for i in range(fabric.global_rank, len(cases), fabric.world_size):
        rows[i] = torch.tensor(score_case(network, cases[i], config, fabric.device, terms, with_heatmap))
    # Each case is one process'; NaN: it has no such organ.
    rows = torch.as_tensor(fabric.all_reduce(rows, reduce_op="sum"))
    parts = [1, config.n_classes, config.n_classes, config.n_small, config.n_small]
    for line in overgrown_notes(rows.split(parts, 1)[1].cpu().numpy(), config.classes):
        if fabric.is_global_zero:
            print(line, flush=True)
    loss, _, main, small, centres = rows.nanmean(0).split(parts)
    result = {"val_loss": loss.item(), "val_dice": main[1:].nanmean().item()}
    if hasattr(network, "localise"):
        result["val_centre_mm"] = centres.nanmean().item()
    if getattr(network, "branches", None):
        result["val_small_dice"] = small.nanmean().item()
    return result


def score_case(network: torch.nn.Module, case: Case, config: Config, device: torch.device, terms: WindowTerms,
               with_heatmap: bool) -> list[float]:
    """The mean loss of its windows, which classes fill more than half of it, Dice of each class from the main network,
    of the small organs after the branches, and distances of their centres in mm; NaN for an organ that the case does
    not have."""
    losses: list[torch.Tensor] = []

    def note_loss(start: Shape, outputs: Outputs) -> None:
        targets = targets_at(case, start, outputs["logits"].shape[2:], config, with_heatmap)
        if found := terms(outputs, {name: target[None].to(device) for name, target in targets.items()}):
            losses.append(torch.as_tensor(sum(found.values())))

    prediction = predict_volume(network, case["image"], config, device, look=note_loss)
    main, final = (cut(labels, np.negative(prediction["start"]), case["label"].shape)
                   for labels in fuse(prediction, config))
    present = np.array(case["presence"], bool)
    scores = [torch.stack(losses).mean().item() if losses else np.nan,
              *overgrown(main, config.n_classes).astype(float)]
    scores += [dice(case["label"] == c, main == c) if present[c] else np.nan for c in range(config.n_classes)]
    scores += [dice(case["label"] == c, final == c) if present[c] else np.nan for c in config.small_labels]
    peaks = heatmap_peaks(prediction)
    for i in range(config.n_small):
        distance = np.nan if peaks is None else np.linalg.norm(
            (peaks[i][1] - case["centres"][i]) * case["spacing_zyx"])
        scores.append(distance)
    return scores
