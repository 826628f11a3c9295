"""The three PyTorch projects at their defaults against plain code that does the same, as the authors run it.

    python -m tests.bench.run against_plain         (RetroLN: retroln_crop; NASNet-GCN: lung_speed, lung_loader)

- preparing a phantom cohort: seconds and peak memory of `plain_preparation` over those of the project's script in one
  process, and of one process over two;
- a training step: PyTorch in float32 with the plain memory layout, over what train.py picks (sizes: `training_step`);
- predict.py on one phantom CT, full-width network with random weights: PyTorch, one window (or slice) at a time, over
  the default engine: the JSON file's seconds in the network and in total; and the peak memory of ours over plain's.

Runs in as many threads as there are cores. Figures depend on the instructions of the CPU, which are printed.
"""
import json
import sys
import tempfile
from pathlib import Path

import torch

from focusnet_v2.checkpoint import save_checkpoint as save_focusnet
from focusnet_v2.config import Config as FocusNetConfig
from focusnet_v2.networks import build_network as build_focusnet
from sepnet.checkpoint import save_checkpoint as save_sepnet
from sepnet.config import Config as SepNetConfig
from sepnet.networks import build_network as build_sepnet
from shared_data.phantoms import write_neck_cohort
from shared_data.phantoms_head import write_pddca_cohort, write_structseg_cohort
from shared_data.settings import to_plain
from snet_neck_ln.checkpoint import save_checkpoint as save_snet
from snet_neck_ln.config import Config as SNetConfig
from snet_neck_ln.networks import build_network as build_snet
from tests.bench.measured import measured
from tests.bench.training_step import PROJECTS, default_variant, measure

PREPARE = {"snet": "snet_neck_ln.process_data.data_process_lymph_node",
           "focusnet": "focusnet_v2.data_preprocess.data_preprocess", "sepnet": "sepnet.preprocess"}
PLAIN = ("--engine", "torch", "--precision", "32-true")


def run():
    print(", ".join(name for name, able in torch.cpu.get_capabilities().items() if able is True), file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        return {**preparation(Path(folder)), **steps(), **prediction(Path(folder))}


def preparation(folder):
    write_neck_cohort(folder / "raw_snet", patients=6, size=512, slices=60)
    write_pddca_cohort(folder / "raw_focusnet", patients=6, size=512, slices=100)
    write_structseg_cohort(folder / "raw_sepnet", patients=6, size=512, slices=100)
    ratios = {}
    for project, module in PREPARE.items():
        raw = folder / f"raw_{project}"
        plain = measured([sys.executable, "-m", "tests.bench.plain_preparation", project, raw, folder / f"p_{project}"])
        one, two = (measured([sys.executable, "-m", module, "--data-dir", raw, "--prepared-dir",
                              folder / f"{project}{workers}", "--workers", workers]) for workers in (1, 2))
        print(f"{project}: plain {plain}, one process {one}, two {two} (s, GB)", file=sys.stderr)
        ratios |= {f"{project}: preparation, plain / ours": plain[0] / one[0],
                   f"{project}: preparation, one process / two": one[0] / two[0],
                   f"{project}: preparation, memory of ours / plain": one[1] / plain[1]}
    return ratios


def steps():
    ratios = {}
    for project in PROJECTS:
        ours = default_variant(project)
        seconds = measure(project, torch.device("cpu"), only=("float32", ours))
        ratios[f"{project}: training step, plain / ours ({ours})"] = seconds["float32"][0] / seconds[ours][0]
    return ratios


def prediction(folder):
    """Full-width networks of random weights on one CT each."""
    for save, config, build, name, more in (
            (save_snet, SNetConfig(), build_snet, "snet", {}),
            (save_focusnet, FocusNetConfig(window_side=192), build_focusnet, "focusnet", {"stage": "adversarial"}),
            (save_sepnet, SepNetConfig(crop_size=128), build_sepnet, "sepnet", {})):
        save(folder / f"{name}.pt", config=to_plain(config), model=build(config).state_dict(), **more)
    write_neck_cohort(folder / "snet", patients=1, size=512, slices=80)
    write_pddca_cohort(folder / "focusnet", patients=1, size=192, slices=64)
    write_structseg_cohort(folder / "sepnet", patients=1, size=256, slices=40)
    ratios = {}
    for project, module, plain in (("snet", "snet_neck_ln", ("--batch-size", 1)), ("focusnet", "focusnet_v2", ()),
                                   ("sepnet", "sepnet", ("--window-batch", 1))):
        ct = next(path for pattern in ("*/img.nrrd", "*/IM0001.nrrd", "*/data.nii.gz", "*/*/data.nii.gz")
                  for path in (folder / project).glob(pattern))
        spent = {}
        for how, options in (("plain", (*PLAIN, *plain)), ("ours", ())):
            output = folder / f"{project}_{how}.nii.gz"
            _, peak = measured([sys.executable, "-m", f"{module}.predict", "--input", ct, "--output", output,
                                "--checkpoint", folder / f"{project}.pt", "--device", "cpu", *options])
            spent[how] = json.loads(Path(str(output).replace(".nii.gz", ".json")).read_text())["seconds"] | {"GB": peak}
            print(f"{project} {how}: {spent[how]}", file=sys.stderr, flush=True)
        for part in ("network", "total"):
            ratios[f"{project}: predict.py, {part}, plain / ours"] = spent["plain"][part] / spent["ours"][part]
        ratios[f"{project}: predict.py, memory of ours / plain"] = spent["ours"]["GB"] / spent["plain"]["GB"]
    return ratios
