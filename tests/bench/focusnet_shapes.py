"""The shape auto-encoder on real organs: optic nerves, parotids and submandibular glands, unseen patients held out.

    python -m tests.bench.focusnet_shapes --data han_contours [--steps 300] [--ae-width 64] [--batch 4] [--lr 2e-4]
        [--weight-decay 1e-4] [--organs Optic-Nerve-Lt Optic-Nerve-Rt]

--data: as for focusnet_observers. Boxes of 8x64x64 voxels of 2.5x1x1 mm around each organ's centre (of a parotid: its
middle 20 mm), jittered in training; both observers' contours of the training patients; a tenth of the learning rate in
the last third. Prints the Dice of the reconstructions for the last fifth of the patients (oncologist's contours), and
for comparison that of the organ's mean training mask.
"""
import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch.nn import functional as F

from focusnet_v2.config import Config
from focusnet_v2.grids import cut, to_network_grid
from focusnet_v2.networks import ShapeAutoencoder
from shared_data.files import read_json
from shared_data.folds import hold_out
from shared_data.metrics import dice
from shared_data.volume import read_volume, to_lps

ORGANS = ("Optic-Nerve-Lt", "Optic-Nerve-Rt", "Parotid-Lt", "Parotid-Rt", "Submandibular-Lt", "Submandibular-Rt")


def run():
    """What the network's memory layout saves; the rest of this file needs --data."""
    masks, seconds = (torch.rand(4, 1, *Config.box_zyx) > 0.99).float(), {}
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        network = ShapeAutoencoder(width=16).to(memory_format=layout)
        for _ in range(3):
            start = time.perf_counter()
            F.mse_loss(network(masks)[0], masks).backward()
            seconds[layout] = min(seconds.get(layout, 1e9), time.perf_counter() - start)
    return {"auto-encoder's step (width 16), plain layout / channels last":
            seconds[torch.contiguous_format] / seconds[torch.channels_last_3d]}


def read_shapes(folder, patients, observers, organs, config):
    """[(organ, mask (z, y, x) with a margin for the jitter, cut around its centre)]"""
    ids = read_json(folder / "labels.json")["ids"]
    margin = np.array(config.ae_jitter_zyx)
    shape, shapes = np.array(config.box_zyx) + 2 * margin, []
    for patient in patients:
        for observer in observers:
            image = to_network_grid(to_lps(read_volume(folder / f"{patient}_{observer}.nii.gz")), config,
                                    sitk.sitkNearestNeighbor)
            labels = sitk.GetArrayViewFromImage(image)
            for organ in organs:
                mask = labels == ids[organ]
                if mask.any():
                    centre = np.round(np.argwhere(mask).mean(0)).astype(int)
                    shapes.append((organ, cut(mask, centre - shape // 2, shape)))
    return shapes


def boxes(shapes, shifts, config):
    """Masks (B, 1, *box_zyx) as float, each moved by its shift."""
    margin = np.array(config.ae_jitter_zyx)
    return torch.from_numpy(np.stack([cut(mask, margin + shift, config.box_zyx) for (_, mask), shift
                                      in zip(shapes, shifts)])[:, None].astype(np.float32))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--ae-width", type=int, default=64)
    parser.add_argument("--lr", type=float, default=Config.ae_lr)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--organs", nargs="+", choices=ORGANS, default=ORGANS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config, rng = Config(ae_width=options.ae_width), np.random.default_rng(options.seed)
    patients = {path.name.split("_")[0] for path in options.data.glob("*_oncologist.nii.gz")}
    seen, unseen = hold_out(patients, 0.2)
    train = read_shapes(options.data, seen, ("oncologist", "radiographer"), options.organs, config)
    test = read_shapes(options.data, unseen, ("oncologist",), options.organs, config)
    print(f"{len(train)} masks of {len(seen)} patients; {len(test)} of {len(unseen)} unseen: {', '.join(unseen)}",
          flush=True)
    torch.manual_seed(options.seed)
    network = ShapeAutoencoder(config.box_zyx, config.ae_width, config.code_length)
    optimizer = torch.optim.Adam(network.parameters(), options.lr, weight_decay=options.weight_decay)
    start = time.perf_counter()
    for step in range(1, options.steps + 1):
        network.train()
        chosen = [train[i] for i in rng.integers(0, len(train), options.batch)]
        jitter = np.array(config.ae_jitter_zyx)
        mask = boxes(chosen, rng.integers(-jitter, jitter + 1, (options.batch, 3)), config)
        optimizer.param_groups[0]["lr"] = options.lr * (0.1 if 3 * step > 2 * options.steps else 1)
        loss = F.mse_loss(network(mask)[0], mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == options.steps:
            print(f"step {step}, loss {loss.item():.4f}, {time.perf_counter() - start:.0f} s")
            report(network, train, test, config)


@torch.inference_mode()
def report(network, train, test, config):
    network.eval()
    masks = boxes(test, np.zeros((len(test), 3), int), config)
    found = torch.cat([network(mask[None])[0] for mask in masks]) > 0.5
    for organ in sorted({organ for organ, _ in test}):
        of = [i for i, (name, _) in enumerate(test) if name == organ]
        like = [shape for shape in train if shape[0] == organ]
        mean_mask = boxes(like, np.zeros((len(like), 3), int), config).mean(0) > 0.5
        scores = [dice(masks[i].numpy() > 0, found[i].numpy()) for i in of]
        plain = [dice(masks[i].numpy() > 0, mean_mask.numpy()) for i in of]
        print(f"  {organ:18s} {len(scores)} masks  Dice {statistics.mean(scores):.3f} "
              f"({min(scores):.3f} to {max(scores):.3f}); mean mask {statistics.mean(plain):.3f}", flush=True)


if __name__ == "__main__":
    main()
