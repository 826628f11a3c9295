"""One network's nodule probabilities of LIDC-IDRI crops, for real_nodules.py.

    python -m tests.bench.nodule_maps --data <lidc_crops> --checkpoint runs/nasnet/best.npz --output maps.npz

In .venv-keras for NASNet-GCN and, with --unet, the plain U-Net; in .venv for S-Net (best.pt). Each crop of `held_out`
is covered by overlapping windows, as predict.py covers a CT.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.windows import probability_map
from shared_data.files import whole_file
from tests.bench.lidc_crops import WINDOW, held_out, read_crops


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--unet", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows, images, votes = read_crops(options.data)
    chosen = held_out(rows, votes)
    load = load_snet if options.checkpoint.suffix == ".pt" else load_keras
    forward, config = load(options)
    everywhere = np.ones(images.shape[1:], bool)
    maps = np.stack([probability_map(forward, images[k], everywhere, config) for k in tqdm(chosen, disable=None)])
    with whole_file(options.output) as partial:
        np.savez_compressed(partial, rows=chosen, probability=np.round(maps * 255).astype(np.uint8))
    print(f"{len(chosen)} crops: {options.output}")


def load_keras(options):
    from lung_nodule_nasnet.checkpoint import load_network
    from lung_nodule_nasnet.inference import on_windows
    if options.unet:
        from tests.bench.plain_unet import in_its_place
        in_its_place()
    network, config = load_network(options.checkpoint)
    return on_windows(network), config


def load_snet(options):
    import torch

    from snet_neck_ln.checkpoint import load_network
    network, config = load_network(options.checkpoint)

    @torch.inference_mode()
    def forward(windows):
        batch = torch.from_numpy((windows[:, None] + 1) / 3).contiguous(memory_format=torch.channels_last)
        return network.eval().main(batch)[:, 0].sigmoid().numpy()
    return forward, replace(Config(), size=config.size, window=WINDOW)


if __name__ == "__main__":
    main()
