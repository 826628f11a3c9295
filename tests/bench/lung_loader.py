"""Slices per second from the generator alone with 2 workers, over those that a CPU training step consumes.

    python -m tests.bench.run lung_loader       (in .venv-keras)

Full size (400x400), with augmentation; the paper's network, batches of 12.
"""
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tables

from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.data_generator_sequence_table import SliceSequence
from lung_nodule_nasnet.losses import gdl_wce_loss
from lung_nodule_nasnet.nasnet_v2 import build_network
from lung_nodule_nasnet.table import FILTERS, TEXT


def run(batch_size=12, n_slices=120):
    config = Config(batch_size=batch_size, workers=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.h5"
        write_table(path, n_slices)
        sequence = SliceSequence(path, range(n_slices), config, augmented=True)
        loaded = n_slices / loading_seconds(sequence)
        image, reference = sequence[0]
    network = build_network(config)
    network.compile(keras.optimizers.SGD(config.lr, momentum=0.9), gdl_wce_loss, jit_compile=False)
    network.train_on_batch(image, reference)  # compiled here
    start = time.perf_counter()
    network.train_on_batch(image, reference)
    consumed = batch_size / (time.perf_counter() - start)
    print(f"{loaded:.1f} slices/s loaded, {consumed:.2f} slices/s consumed")
    return {f"slices loaded / slices a step consumes (batch {batch_size})": loaded / consumed}


def loading_seconds(sequence):
    """One pass over all batches in the worker processes, the time to start them included."""
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
    adapter = PyDatasetAdapter(sequence)
    start = time.perf_counter()
    for _, _ in zip(range(len(sequence)), adapter._get_iterator()):
        pass
    seconds = time.perf_counter() - start
    adapter.enqueuer.stop()
    return seconds


def write_table(path, n):
    """Random lungs on 0, which compress as real ones do."""
    rng = np.random.default_rng(0)
    y, x = np.ogrid[:400, :400]
    lungs = ((y - 200) / 150) ** 2 + ((np.abs(x - 200) - 100) / 80) ** 2 <= 1
    with tables.open_file(str(path), "w") as table:
        for name, atom, shape in (("data", tables.Float32Atom(), (400, 400)), ("truth", tables.UInt8Atom(), (400, 400)),
                                  ("subject_ids", TEXT, ()), ("series_uids", TEXT, ()),
                                  ("slice_index", tables.Int32Atom(), ())):
            array = table.create_earray("/", name, atom, (0, *shape), filters=FILTERS, chunkshape=(1, *shape))
            for k in range(n):
                value = {"data": lungs * rng.normal(-0.6, 0.05, (400, 400)), "truth": lungs & (y > 300) & (x > 300),
                         "slice_index": k}.get(name, b"case")
                array.append(np.array([value]).astype(array.dtype))
        table.root._v_attrs.n_slices = n
