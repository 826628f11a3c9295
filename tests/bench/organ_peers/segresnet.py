"""MONAI's SegResNet on the cohort: AdamW with a cosine schedule, DiceCE on patches of 64^3; organs that nobody drew are
merged with the background, as for our own networks. Voxels as published.

    python -m tests.bench.organ_peers.segresnet train|predict --cohort DIR --run-dir DIR [--minutes 90] [--processor]

--small: 8 filters instead of 32, for CPUs.
"""
import argparse
import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import DataLoader, Dataset
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.networks.nets import SegResNet
from monai.transforms import (
    Compose,
    RandAffined,
    RandCropByLabelClassesd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    ScaleIntensityRanged,
    SpatialPadd,
)
from torch.utils.data import RandomSampler

from focusnet_v2.losses import merge_undrawn
from shared_data import openkbp
from shared_data.volume import read_volume, write_volume
from shared_torch.checkpoints import read_checkpoint, save_checkpoint
from shared_torch.devices import autocast, choose_device, choose_precision
from tests.bench.organ_peers.budget import Budget
from tests.bench.organ_peers.cohort import presence, read_cases

PROJECT, FILTERS, SMALL, PATCH, BATCH, EVERY = "SegResNet", 32, 8, (64, 64, 64), 2, 25
LR, WEIGHT_DECAY = 1e-3, 1e-5
MOST = 1_000_000  # updates: the time ends them
N_CLASSES = len(openkbp.ORGANS) + 1
WINDOW = ScaleIntensityRanged("image", -500, 1000, 0, 1, clip=True)  # HU


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "predict"])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    train(options) if options.step == "train" else predict(options)


def build(filters):
    return SegResNet(3, filters, 1, N_CLASSES, dropout_prob=0.2)


def read(cohort, name, case):
    return torch.from_numpy(sitk.GetArrayFromImage(read_volume(cohort / name / f"{case}.nii.gz")))[None]


def train(options):
    torch.manual_seed(0)
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    cases = [{"image": read(options.cohort, "ct", case), "label": read(options.cohort, "labels", case),
              "known": torch.tensor(presence([drawn])[0])}
             for case, drawn in read_cases(options.cohort, "train").items()]
    augment = Compose([
        WINDOW, SpatialPadd(["image", "label"], PATCH),
        RandCropByLabelClassesd(["image", "label"], "label", PATCH, ratios=[1] * N_CLASSES, num_classes=N_CLASSES,
                                num_samples=1, warn=False),
        RandAffined(["image", "label"], prob=0.5, rotate_range=[0.2] * 3, scale_range=[0.1] * 3,
                    mode=("bilinear", "nearest"), padding_mode="border"),
        RandScaleIntensityd("image", 0.1, prob=0.5), RandShiftIntensityd("image", 0.1, prob=0.5)])
    filters = SMALL if options.small else FILTERS
    network = build(filters).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=WEIGHT_DECAY)
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    path, n, losses = options.run_dir / "last.pt", 0, []
    if path.exists():
        state = read_checkpoint(path)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        n = state["updates"]
    torch.manual_seed(n)
    drawn = RandomSampler(cases, replacement=True, num_samples=BATCH * MOST)
    patches = iter(DataLoader(Dataset(cases, augment), options.workers, batch_size=BATCH, sampler=drawn))
    budget = Budget(options.run_dir / "cost.json", options.minutes, options.processor)
    while (share := budget.share) < 1:
        optimizer.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * share)) / 2
        batch = next(patches)
        image, label = (batch[name].as_tensor().float().to(device) for name in ("image", "label"))
        with autocast(device, precision):
            logits = network(image)
        loss = loss_of(merge_undrawn(logits.float(), batch["known"].to(device)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        n += 1
        if n % EVERY == 0 or budget.share >= 1:
            print(f"update {n}  loss {np.mean(losses[-EVERY:]):.4f}  {share:.1%}", flush=True)
            save_checkpoint(path, PROJECT, model=network.state_dict(), optimizer=optimizer.state_dict(), updates=n,
                            filters=filters)
            budget.save(updates=n, parameters=sum(tensor.numel() for tensor in network.parameters()))


@torch.inference_mode()
def predict(options):
    device = choose_device("auto")
    state = read_checkpoint(options.run_dir / "last.pt")
    network = build(state.get("filters", SMALL)).to(device).eval()
    network.load_state_dict(state["model"])
    for case in read_cases(options.cohort, "test"):
        image = WINDOW({"image": read(options.cohort, "ct", case)})["image"].as_tensor().float()[None].to(device)
        logits = sliding_window_inference(image, PATCH, 4, network, overlap=0.5, mode="gaussian")
        labels = sitk.GetImageFromArray(logits[0].argmax(0).byte().cpu().numpy())
        labels.CopyInformation(read_volume(options.cohort / "ct" / f"{case}.nii.gz"))
        write_volume(labels, options.output_dir / f"{case}.nii.gz")


if __name__ == "__main__":
    main()
