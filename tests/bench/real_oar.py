"""Which network segments the organs of real patients best at equal cost? FocusNet's main network, SepNet, its 3-D
U-Net; and what one would otherwise use: nnU-Net v2 and MONAI's SegResNet.

    python -m tests.bench.real_oar --data open-kbp --runs-dir runs/compare [--minutes 90] [--networks SepNet nnU-Net]

or `make compare DATA=open-kbp`. All are trained on OpenKBP's 162 usable training patients on its grid of 4 mm, for the
same time, one after the other, and scored on the same 40 test patients on each CT's own grid. --processor: measure the
time as a process' processor time (set OMP_NUM_THREADS=1), for a machine that also does other work. Our networks are
narrow, for CPUs, and SegResNet too; --full-size, for a GPU: the papers' widths and batches, 32 filters of SegResNet.
Ours are trained for as many epochs as fit, judged by the first ones. The same command continues after a kill and skips
what is done; a trained network is not trained any longer: that takes another --runs-dir.

Prints tables for a README: mean and 95 % interval of a bootstrap over patients; only organs that somebody drew count.
"""
import argparse
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import SimpleITK as sitk

from shared_data.files import read_json, read_table, write_json, write_table
from shared_data.metrics import dice, mean, surface_distances
from shared_data.openkbp import ORGANS
from shared_data.volume import read_volume
from shared_torch.checkpoints import read_checkpoint
from tests.bench.measured import cost
from tests.bench.organ_peers.cohort import read_cases, write_cohort
from tests.bench.organ_table import difference, interval

REFERENCES = ("nnU-Net", "small nnU-Net")  # what the others are compared with: the better one
SCORES = ("dice", "hd95_mm", "assd_mm")
SOME_SKIPPED = 1  # exit code of a preparation that left cases out and named them
PREPARE = {
    "focusnet_v2": [["focusnet_v2.data_preprocess.data_preprocess", "--layout", "openkbp", "--spacing-xyz", "3.906",
                     "3.906", "2.5"], ["focusnet_v2.data_preprocess.crop_data", "--patch-zyx", "40", "64", "64"]],
    "sepnet": [["sepnet.preprocess", "--layout", "openkbp", "--resample", "--spacing-zyx", "2.5", "3.906", "3.906",
                "--crop-size", "80"]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw patches (FocusNet: none)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    options = parser.parse_args()
    if options.processor and options.workers:
        parser.error("--processor does not see what --workers do: leave one of them out")
    cohort = options.runs_dir / "cohort"
    write_cohort(options.data, cohort)
    for name in options.networks:
        run_dir, output_dir = options.runs_dir / name, options.runs_dir / "predictions" / name
        NETWORKS[name].prepare(options)
        if not (run_dir / "trained.json").exists():
            NETWORKS[name].train(run_dir, options)
        if not (output_dir / "cost.json").exists():
            used = cost([sys.executable, "-m", *NETWORKS[name].predicting(run_dir, output_dir, options)])
            write_json(output_dir / "cost.json", used._asdict())
    tables = {name: scores_of(name, options.runs_dir) for name in NETWORKS
              if (options.runs_dir / "predictions" / name / "cost.json").exists()}
    report(tables, options.runs_dir)


@dataclass(frozen=True)
class Ours:
    """A network of this repository, by its own scripts."""

    project: str
    checkpoint: str  # below the run folder, beside history.csv
    epochs: str  # the option that sets them
    schedule: tuple[tuple[Any, ...], ...]  # (option in epochs, as shares of all: one or more)
    settings: tuple[str, ...]
    narrow: tuple[str, ...]  # in place of the papers' settings

    def prepare(self, options):
        for module, *settings in PREPARE[self.project]:
            source = ["--data-dir", options.data] if "--layout" in settings else []
            run(module, *source, "--prepared-dir", self.prepared(options), *settings, fine=(0, SOME_SKIPPED))

    def prepared(self, options):
        return options.runs_dir / "prepared" / self.project

    def command(self, run_dir, epochs, options):
        schedule = [word for name, *shares in self.schedule
                    for word in (name, *(math.ceil(share * epochs) for share in shares))]
        return [f"{self.project}.train", "--prepared-dir", self.prepared(options), "--run-dir", run_dir, self.epochs,
                epochs, "--validate-every", epochs, *schedule, *self.settings,
                *(["--workers", options.workers] if self.project == "sepnet" else []),
                *(() if options.full_size else self.narrow)]

    def train(self, run_dir, options):
        plan = run_dir.with_suffix(".json")
        if not plan.exists():
            seconds = self.seconds_of_epoch(run_dir.with_suffix(".pace"), options)
            write_json(plan, {"seconds_of_epoch": seconds, "epochs": max(1, int(60 * options.minutes / seconds))})
        seconds, epochs = read_json(plan).values()
        begun = (run_dir / self.checkpoint).with_name("last.pt").exists()
        run(*self.command(run_dir, epochs, options), *(["--resume"] if begun else []))
        if not options.processor and epochs > 2:
            seconds = median_epoch((run_dir / self.checkpoint).with_name("tensorboard"))
        network = read_checkpoint(run_dir / self.checkpoint)["model"]
        write_json(run_dir / "trained.json", {"seconds": seconds * epochs, "epochs": epochs,
                                              "parameters": sum(tensor.numel() for tensor in network.values())})

    def seconds_of_epoch(self, run_dir, options):
        """Mean of the epochs after the first, over 10 seconds or more: what a process does once is left out."""
        shutil.rmtree(run_dir, ignore_errors=True)  # of a call that was killed meanwhile
        history, ends = (run_dir / self.checkpoint).with_name("history.csv"), []
        command = [sys.executable, "-m", *map(str, self.command(run_dir, 100, options))]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL)
        while len(ends) < 2 or ends[-1] - ends[0] < 10:
            if history.exists() and len(read_table(history, ["epoch"])) > len(ends):
                ends.append(sum(process.cpu_times()[:2]) if options.processor else time.perf_counter())
            assert process.poll() is None, f"{' '.join(command)} ended before its pace was known"
            time.sleep(0.1)
        process.terminate()
        process.wait()
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    def predicting(self, run_dir, output_dir, options):
        return [f"{self.project}.predict", "--input", tested(options.runs_dir / "cohort"), "--output", output_dir,
                "--checkpoint", run_dir / self.checkpoint, "--workers", 0, "--no-viewer"]


@dataclass(frozen=True)
class Peer:
    """A module of tests.bench.organ_peers."""

    module: str
    settings: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()

    def call(self, step, run_dir, options):
        return [f"tests.bench.organ_peers.{self.module}", step, "--cohort", options.runs_dir / "cohort", "--run-dir",
                run_dir, "--workers", options.workers, *self.settings, *(() if options.full_size else self.narrow)]

    def prepare(self, options):
        if self.module == "nnunet":
            run(*self.call("prepare", options.runs_dir / self.module, options))

    def train(self, run_dir, options):
        run(*self.call("train", run_dir, options), "--minutes", options.minutes,
            *(["--processor"] if options.processor else []))
        (run_dir / "cost.json").rename(run_dir / "trained.json")

    def predicting(self, run_dir, output_dir, options):
        return [*self.call("predict", run_dir, options), "--output-dir", output_dir]


def sepnet(network):
    return Ours("sepnet", "best.pt", "--epochs", (("--lr-every", 1 / 12),), (
        "--network", network, "--patch-zyx", "16", "64", "64", "--steps-per-epoch", "20"), (
        "--base-channels", "8", "--batch-size", "2"))


NETWORKS = {
    "FocusNet": Ours("focusnet_v2", "backbone/best.pt", "--backbone-epochs", (
        ("--backbone-milestones", 13 / 20, 17 / 20),), (
        "--backbone-warmup", "0", "--patch-zyx", "40", "64", "64"), ("--width", "16")),
    "SepNet": sepnet("sepnet"),
    "3-D U-Net": sepnet("unet"),
    "nnU-Net": Peer("nnunet"),
    "small nnU-Net": Peer("nnunet", ("--small",)),
    "SegResNet": Peer("segresnet", narrow=("--small",)),
}


def run(module, *arguments, fine=(0,)):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    code = subprocess.run(command).returncode
    assert code in fine, f"{' '.join(command)}: {code}"


def median_epoch(folder):
    """Median seconds between the ends of the epochs in a TensorBoard folder: without validation and pauses."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    board = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    ends = [event.wall_time for event in board.Scalars("loss")]
    return float(np.median(np.diff(ends)))


def tested(cohort):
    """A folder with the test patients' CTs alone."""
    folder = cohort / "test"
    folder.mkdir(exist_ok=True)
    for case in read_cases(cohort, "test"):
        if not (link := folder / f"{case}.nii.gz").exists():
            link.symlink_to((cohort / "ct" / f"{case}.nii.gz").resolve())
    return folder


def scores_of(name, runs_dir):
    """A row for each organ that was drawn in a test patient; kept in scores.csv beside the predictions."""
    folder = runs_dir / "predictions" / name
    if not (folder / "scores.csv").exists():
        rows = []
        for case, drawn in read_cases(runs_dir / "cohort", "test").items():
            image = read_volume(runs_dir / "cohort" / "labels" / f"{case}.nii.gz")
            truth, found = (sitk.GetArrayFromImage(each)
                            for each in (image, read_volume(folder / f"{case}.nii.gz")))
            rows += [{"case": case, "organ": ORGANS[label - 1], "dice": dice(truth == label, found == label),
                      **surface_distances(truth == label, found == label, image.GetSpacing())} for label in drawn]
        write_table(folder / "scores.csv", rows)
    return [{**row, **{score: float(row[score]) for score in SCORES}}
            for row in read_table(folder / "scores.csv", ["case", "organ", *SCORES])]


def report(tables, runs_dir):
    """Print the tables."""
    by_case = {name: {score: mean_by_case(rows, score) for score in SCORES} for name, rows in tables.items()}
    order = sorted(tables, key=lambda name: -np.mean([*by_case[name]["dice"].values()]))
    reference = next((name for name in order if name in REFERENCES), None)
    against = f" | Dice - {reference}'s" if reference else ""
    print(f"\n| | Dice | HD95 (mm) | ASSD (mm){against} | organs found | parameters (M) | trained (min) | s a CT | "
          f"processor s a CT | peak (GB) |\n{'|---' * (10 + bool(against))}|")
    for name in order:
        trained = read_json(runs_dir / name / "trained.json")
        used = read_json(runs_dir / "predictions" / name / "cost.json")
        n = len(by_case[name]["dice"])
        cells = [interval(np.array([*by_case[name][score].values()]), digits)
                 for score, digits in zip(SCORES, (3, 1, 1))]
        if reference:
            cells.append("" if name == reference else difference(by_case[name]["dice"], by_case[reference]["dice"]))
        cells.append(f"{sum(row['dice'] > 0 for row in tables[name])} of {len(tables[name])}")
        print(f"| {name} | {' | '.join(cells)} | {trained['parameters'] / 1e6:.1f} | {trained['seconds'] / 60:.1f} | "
              f"{used['seconds'] / n:.1f} | {used['processor_seconds'] / n:.1f} | {used['peak_gb']:.1f} |")
    print(f"\nHighest mean Dice: {order[0]}. Means over a patient's organs, of {n} patients.\n")
    for score, title, digits in zip(SCORES, ("Dice", "HD95 (mm)", "ASSD (mm)"), (3, 1, 1)):
        print(f"| {title} | n | {' | '.join(order)} |\n{'|---' * (len(order) + 2)}|")
        for organ in ORGANS:
            values = [np.array([row[score] for row in tables[name] if row["organ"] == organ]) for name in order]
            print(f"| {organ} | {len(values[0])} | {' | '.join(interval(each, digits) for each in values)} |")
        print()


def mean_by_case(rows, score):
    """{case: mean of a score over its organs}; distances over those that were found."""
    values = {}
    for row in rows:
        values.setdefault(row["case"], []).append(row[score])
    return {case: mean(each) for case, each in values.items()}


if __name__ == "__main__":
    main()
