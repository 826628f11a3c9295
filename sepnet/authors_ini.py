"""Read settings from the authors' INI files (config/train.txt)."""
import configparser
import re
import typing
from pathlib import Path

from sepnet.config import Config
from shared_data.errors import InputError
from shared_data.named_types import Values

# Their keys -> our fields. Keys that are fields of ours are read as well.
KEYS = {
    "base_chns": "base_channels", "base_feature_number": "base_channels", "n_class": "n_classes",
    "class_num": "n_classes", "num_classes": "n_classes", "droprate": "dropout", "drop_rate": "dropout",
    "train_batch": "batch_size", "learning_rate": "lr", "decay": "weight_decay", "maximal_epoch": "epochs",
    "num_epoch": "epochs", "max_epoch": "epochs", "iteration": "steps_per_epoch", "iters_per_epoch": "steps_per_epoch",
    "model_save_prefix": "run_dir", "data_shape": "patch_zyx", "patch_size": "patch_zyx",
    "loss_type": "loss", "loss_function": "loss", "net_type": "network", "random_seed": "seed",
    "dataset_name": "transform"}
# Their values -> ours.
VALUES = {
    "loss": {"attentionexpdiceloss": "attention_exp_dice", "attention_exp_dice_loss": "attention_exp_dice",
             "expdiceloss": "exp_dice", "softdiceloss": "soft_dice", "dice": "soft_dice", "focalloss": "focal",
             "focaldiceloss": "focal_dice"},
    "network": {"unet_separate": "sepnet", "unetseparate": "sepnet", "unet3d": "unet", "unet": "unet"}}


def read_ini(path: Path) -> Values:
    """{field of Config: value} of an INI file; sections do not matter, keys without a counterpart are printed.

    Raises InputError when it is not an INI file, or a value does not fit.
    """
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=("#", ";"))
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not an INI file ({str(error).splitlines()[0]}).") from error
    types, settings, unused = typing.get_type_hints(Config), {}, []
    for section in parser.sections():
        for key, text in parser[section].items():
            name = KEYS.get(key, key)
            if name in types:
                settings[name] = _value(path, key, text, name, types[name])
            else:
                unused.append(f"{section}.{key}")
    if not settings:
        raise InputError(f"{path}: none of its keys is known here ({', '.join(unused[:8])}).")
    if unused:
        print(f"{path.name}: not used here: {', '.join(unused)}")
    return settings


def _value(path, key, text, name, kind):
    text = text.strip().strip("'\"")
    parts = typing.get_args(kind)
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            words = re.findall(r"[^\s,;()\[\]]+", text)
            return tuple(part(word) for part, word in zip(parts, words, strict=True))
        if typing.get_origin(kind) is typing.Literal:
            text = VALUES.get(name, {}).get(text.lower(), text)
            return {choice: choice for choice in parts}[text]
        return (parts[0] if parts else kind)(text)
    except (KeyError, ValueError):
        choices = f" Valid: {', '.join(parts)}." if typing.get_origin(kind) is typing.Literal else ""
        raise InputError(f"{path}: {key} = {text} does not fit --{name.replace('_', '-')}.{choices}") from None
