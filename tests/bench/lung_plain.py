"""NASNet-GCN's sampling and inference, and plain Keras that does the same. Full size, the paper's network.

    python -m tests.bench.run lung_plain        (in .venv-keras; preparation: lung_speed)

Plain: a slice read from the table, rotated, zoomed and flipped by SciPy one after the other; `predict` of one slice at
a time. A training step is Keras' own in both.
"""
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.inference import nodule_probability
from lung_nodule_nasnet.nasnet_v2 import build_network
from lung_nodule_nasnet.table import open_slices
from tests.bench.lung_loader import write_table
from tests.bench.measured import shortest

SLICES = 16


def run():
    config, rng = Config(workers=0), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.h5"
        write_table(path, SLICES)
        sequence = SliceSequence(path, range(SLICES), config, augmented=True)
        with open_slices(path) as table:
            images = np.stack([table.root.data[k] for k in range(SLICES)])[..., None]
            plain = shortest(lambda: [moved(table, k, rng) for k in range(SLICES)], 2)
            ours = shortest(lambda: [sequence.slice(table, k) for k in range(SLICES)], 2)
    network = build_network(config)
    batches = [images[start:start + config.predict_batch] for start in range(0, SLICES, config.predict_batch)]
    one_by_one = shortest(lambda: [network.predict(image[None], verbose=0) for image in images], 2)
    together = shortest(lambda: [nodule_probability([network], batch) for batch in batches], 2)
    return {"sampling, plain / ours": plain / ours, "inference, plain / ours": one_by_one / together}


def moved(table, k, rng):
    degrees, zoom, flips = rng.uniform(-15, 15), rng.uniform(1, 1.1), rng.random(2) < 0.5
    results = []
    for array, order in ((table.root.data[k], 1), (table.root.truth[k], 0)):
        array = ndimage.zoom(ndimage.rotate(array, degrees, reshape=False, order=order), zoom, order=order)
        start = (len(array) - 400) // 2
        results.append(np.flip(array[start:start + 400, start:start + 400], np.flatnonzero(flips)))
    return results
