"""Train NASNet-GCN on the table: python train.py [--resume] [--finetune best.npz]

Writes to the run folder: config.json, history.csv, curves.png, tensorboard/, last.npz, best.npz.
"""
from lung_nodule_nasnet.checkpoint import load_checkpoint
from lung_nodule_nasnet.config import Config
from lung_nodule_nasnet.preprocess import SLICE_SETTINGS
from shared_data.errors import run_script
from shared_data.files import check_free_space, clear_partials, only_run_in
from shared_data.settings import CLUSTER, given_options, settings_of_run

# What may change when a run goes on; everything else would make it another experiment.
FREE = ("resume", "epochs", "device", "devices", "workers", *CLUSTER, "data_dir", "prepared_dir", "run_dir",
        "predict_batch", "threshold_rule", "centre_distance", "cut", "erode",
        "min_pixels")
PREPARED = tuple(name for name in SLICE_SETTINGS if name != "seed")  # training has a seed of its own
FINETUNE_LR = 1e-7  # authors


def main(argv=None):
    config = read_settings(argv)
    with only_run_in(config.run_dir):
        clear_partials(config.run_dir)
        check_free_space(config.run_dir, 50e6)
        from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow takes seconds to load: not for --help
        from lung_nodule_nasnet.training import train
        train(config)


def read_settings(argv):
    """The run's Config: from the command line, or, with --resume, as the run folder keeps it."""
    given = given_options(Config, argv, __doc__)
    if given.get("finetune") and "lr" not in given:
        given["lr"] = FINETUNE_LR
    return settings_of_run(Config, given, "last.npz", FREE, lambda path: load_checkpoint(path)[0]["config"],
                           prepared=PREPARED)


if __name__ == "__main__":
    run_script(main)
