"""Save and load checkpoints, and the networks in them."""
from functools import partial
from pathlib import Path

from sepnet.config import Config
from sepnet.networks import EncoderDecoder, build_network
from sepnet.original_checkpoint import guess_options, load_original_checkpoint
from shared_data.checkpoints import check_origin
from shared_data.errors import InputError
from shared_data.named_types import StrPath
from shared_data.settings import build, config_from_dict
from shared_torch import checkpoints
from shared_torch.checkpoints import load_strictly, read_checkpoint

PROJECT = "sepnet"
SHIPPED = Path(__file__).parent / "weights" / "openkbp.pt"  # trained on real patients, see README.md beside it
save_checkpoint = partial(checkpoints.save_checkpoint, project=PROJECT)
load_checkpoint = partial(checkpoints.load_checkpoint, project=PROJECT)


def load_network(path: StrPath) -> tuple[EncoderDecoder, Config]:
    """(network in eval mode, its Config) of a checkpoint of ours or the authors'; theirs gets default settings.

    Raises InputError for a damaged file, another project's, and tensors that do not fit.
    """
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
