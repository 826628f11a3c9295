"""Slices per second from the loader alone, over those that a CPU training step of S-Net consumes.

    python -m tests.bench.run snet_loader

Full size (384x384 from 512x512 slices), 2 workers, with augmentation; batches of 16 in the default precision.
"""
import tempfile
import time
from pathlib import Path

import torch

from shared_data.phantoms import write_neck_cohort
from shared_torch.devices import choose_precision
from snet_neck_ln.config import Config
from snet_neck_ln.dataset import build_loaders
from snet_neck_ln.networks import SNet
from snet_neck_ln.process_data import data_parser, data_process_lymph_node
from tests.bench.training_step import sum_of_snet_losses, training_step


def run(batch_size=16):
    with tempfile.TemporaryDirectory() as folder:
        prepared = ["--prepared-dir", f"{folder}/prepared"]
        write_neck_cohort(Path(folder) / "raw", patients=4, size=512, slices=60)
        data_process_lymph_node.main([*prepared, "--data-dir", f"{folder}/raw"])
        data_parser.main(prepared)
        config = Config(prepared_dir=Path(folder) / "prepared", batch_size=batch_size)
        loader, _ = build_loaders(config)
        list(loader)  # workers started, files in the cache
        start = time.perf_counter()
        batches = list(loader)
        loaded = sum(len(batch["mask"]) for batch in batches) / (time.perf_counter() - start)
    cpu = torch.device("cpu")
    step = training_step(SNet(), 5e-5, batches[0]["image"], batches[0]["mask"], sum_of_snet_losses, cpu,
                         bf16=choose_precision("auto", cpu) == "bf16-mixed", channels_last=True)
    step()
    start = time.perf_counter()
    step()
    consumed = len(batches[0]["mask"]) / (time.perf_counter() - start)
    return {f"slices loaded / slices a step consumes (batch {batch_size})": loaded / consumed}
