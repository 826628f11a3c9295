"""Train NASNet-GCN on the table: python train.py [--resume] [--finetune best.npz]

Writes to the run folder: config.json, history.csv, curves.png, tensorboard/, last.npz, best.npz.
"""
from collections.abc import Sequence

from lung_nodule_nasnet.checkpoint import load_checkpoint
from lung_nodule_nasnet.config import STEPS, Config, Run, Slices, Train
from shared_data.errors import run_script
from shared_data.files import check_free_space, clear_partials, only_run_in
from shared_data.named_types import Values
from shared_data.settings import given_options, names_of, settings_of_run

FINETUNE_LR = 1e-7  # authors


def main(argv: Sequence[str] | None = None) -> None:
    config = read_settings(argv)
    with only_run_in(config.run_dir):
        clear_partials(config.run_dir)
        check_free_space(config.run_dir, 50e6)
        from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow takes seconds to load: not for --help
        from lung_nodule_nasnet.training import train
        train(config)


def read_settings(argv: Sequence[str] | None) -> Config:
    """The run's Config: from the command line, or, with --resume, as the run folder keeps it."""
    return settings_of(given_options(Train, argv, __doc__, STEPS))


def settings_of(given: Values) -> Config:
    """The same from the options given, as {field: value}."""
    if given.get("finetune") and "lr" not in given:
        given = {**given, "lr": FINETUNE_LR}
    return settings_of_run(Config, given, "last.npz", names_of(Run), lambda path: load_checkpoint(path)[0]["config"],
                           prepared=names_of(Slices))


def is_finished(config: Config) -> bool:
    """Whether a run that can go on has nothing left to do."""
    return len(load_checkpoint(config.run_dir / "last.npz")[0]["history"]) >= config.epochs


if __name__ == "__main__":
    run_script(main)
