"""Checkpoints, and the networks in them."""
from functools import partial
from pathlib import Path

from sepnet.config import Config
from sepnet.networks import build_network
from sepnet.original_checkpoint import guess_options, load_original_checkpoint
from shared_data.checkpoints import check_origin
from shared_data.errors import InputError
from shared_data.settings import build, config_from_dict
from shared_torch import checkpoints
from shared_torch.checkpoints import load_strictly, read_checkpoint

PROJECT = "sepnet"
SHIPPED = Path(__file__).parent / "weights" / "openkbp.pt"  # learnt from real patients, see README.md beside it
save_checkpoint = partial(checkpoints.save_checkpoint, project=PROJECT)
load_checkpoint = partial(checkpoints.load_checkpoint, project=PROJECT)


def load_network(path):
    """(network in eval mode, its Config) of our checkpoint or the authors'; theirs gets the default settings."""
    loaded = read_checkpoint(path)
    if "project" not in loaded:
        tensors = loaded["model"] if isinstance(loaded.get("model"), dict) else loaded
        try:
            options = guess_options(tensors)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        network = load_original_checkpoint(path, **options)
        options["network"] = options.pop("kind")
        return network, build(Config, options)
    check_origin(loaded, PROJECT, path)
    config = config_from_dict(Config, loaded["config"], path)
    network = build_network(config)
    load_strictly(network, loaded["model"], path)
    return network.eval(), config
