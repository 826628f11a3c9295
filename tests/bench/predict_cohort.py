"""Predicting a cohort with S-Net (full width, random weights; neck phantoms): CTs in one run against one run each, two
workers against one, the peak memory for 100 CTs against that for 10, and the time to start two workers.

    python -m tests.bench.run predict_cohort

All other figures include starting Python, torch and the workers; a worker computes in one thread.
"""
import sys
import tempfile
import time
from operator import neg
from pathlib import Path

from shared_data.cluster import finished
from shared_data.phantoms import write_neck_cohort
from shared_data.settings import to_plain
from snet_neck_ln.checkpoint import save_checkpoint
from snet_neck_ln.config import Config
from snet_neck_ln.networks import build_network
from tests.bench.measured import measured

APART, PARALLEL = 4, 24  # CTs in one run against a run each; with workers


def run():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = Config(size=32)
        save_checkpoint(folder / "net.pt", config=to_plain(config), model=build_network(config).state_dict())
        write_neck_cohort(folder / "deep", patients=1, size=128, slices=32)
        write_neck_cohort(folder / "flat", patients=1, size=128, slices=6)

        def predict(source, output, *options):
            cost = measured([sys.executable, "-m", "snet_neck_ln.predict", "--input", source, "--output", output,
                             "--checkpoint", folder / "net.pt", "--device", "cpu", *options])
            print(f"{source.name} to {output.name}: {cost} (s, GB)", file=sys.stderr, flush=True)
            return cost

        def cohort(kind, number):
            """A folder with so many CTs, all the same."""
            place = folder / f"{kind} {number}"
            place.mkdir()
            for i in range(number):
                (place / f"P{i}.nrrd").hardlink_to(folder / kind / "P1" / "IM0001.nrrd")
            return place

        flat, deep = cohort("flat", APART), cohort("deep", PARALLEL)
        apart = sum(predict(ct, folder / "apart" / f"{ct.stem}.nii.gz")[0] for ct in sorted(flat.iterdir()))
        together = predict(flat, folder / "together")[0]
        one, two = (predict(deep, folder / f"workers {workers}", "--size", 128, "--workers", workers)[0]
                    for workers in (1, 2))
        few, many = (predict(cohort("flat", number), folder / f"out {number}")[1] for number in (10, 100))
        start = time.perf_counter()
        assert sorted(finished(neg, [1, 2], workers=2)) == [(0, -1), (1, -2)]
        started = time.perf_counter() - start
    return {f"{APART} CTs of 6 slices: time of {APART} runs / of one": apart / together,
            f"{PARALLEL} CTs of 32 slices: time of one worker / of two": one / two,
            "peak memory of 100 CTs / of 10": many / few,
            "seconds to start two workers, do next to nothing, and end them": started}
