"""Checkpoints of the authors' code in our networks."""
import re

from focusnet_v2.networks import FocusNet, ShapeAutoencoder, SNet
from shared_data.errors import InputError
from shared_torch.checkpoints import load_strictly, read_checkpoint

KINDS = ("snet", "focusnet", "focusnet_sos", "autoencoder")

# The authors' names of the tensors of each part -> ours, applied in order.
UNITS = [(r"ASPP_1", "aspp.units.0"), (r"ASPP_2", "aspp.units.1"), (r"ASPP_3", "aspp.units.2"),
         (r"ASPP_4", "aspp.units.3"), (r"\.norm_1\.", ".0."), (r"\.conv_1\.", ".2."), (r"\.norm_2\.", ".3."),
         (r"\.conv_2\.", ".5.")]
BLOCKS = [(r"^up(\d)\.conv\.0\.conv\.", r"up\1."), (r"^conv2x\.(\d)\.conv\.", r"down1.\1."),
          (r"^conv4x\.(\d)\.conv\.", r"down2.\1."), (r"^literal", "lateral"), (r"^out_conv\.", "head."),
          (r"\.bn(\d)\.", r".norm\1."), (r"\.se\.conv\.", ".gate.")]
RENAMES = {
    "backbone": [(r"^conv1x\.conv1\.", "entry.0."), (r"^conv1x\.conv2\.", "entry.2."),
                 (r"^conv4xd2\.0\.conv\.", "down2.2."), (r"^conv4xd2\.1\.conv\.", "down2.3."), *BLOCKS, *UNITS],
    "branch": [(r"^share_", ""), (r"^conv1x\.conv1\.", "entry.0.0."), (r"^conv1x\.conv2\.", "entry.0.2."),
               (r"^conv1x_2\.0\.conv\.", "entry.1."), (r"^conv1x_2\.1\.conv\.", "entry.2."), *BLOCKS, *UNITS],
    "localise": [(r"^bn1\.", "layers.0."), (r"^conv1\.", "layers.2."), (r"^bn2\.", "layers.3."),
                 (r"^conv2\.", "layers.5."), (r"^conv3\.", "layers.6.")],
    "autoencoder": [*((rf"^{layer}{i}\.", f"encoder.{i - 1}.{k}.") for i in (1, 2, 3, 4)
                      for k, layer in enumerate(("conv", "bn"))),
                    *((rf"^{layer}{i}\.", f"decoder1.{i - 5}.{k}.") for i in (5, 6)
                      for k, layer in enumerate(("conv", "bn"))),
                    (r"^conv7\.", "decoder2.0."), (r"^bn7\.", "decoder2.1."), (r"^conv8\.", "last."),
                    (r"^fc1\.", "to_code."), (r"^fc2\.", "from_code.")],
}
# A tensor of the whole network: what stands before (the authors' name of the part), and its name within the part.
WITHIN = re.compile(r"((?:.*?\.)??)((?:(?:share_)?(?:conv\dx(?:d2|_2)?|ASPP_\d|literal\d|up\d|out_conv)\..+)"
                    r"|(?:(?:bn[12]|conv[123])\.\w+))")


def load_original_checkpoint(source, kind="focusnet_sos"):
    """SNet ("snet"), FocusNet without ("focusnet") or with branches ("focusnet_sos"), or ShapeAutoencoder, in eval
    mode, with the weights of the authors' code.

    source: path, or a state dict, plain or under "model"; keys with or without `module.`. The parts of the whole
    network are told by the tensors in them, whatever they are called; branches in order of appearance.
    Raises InputError naming the key when a tensor is unknown, absent or of another shape.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is unknown. Valid: {', '.join(KINDS)}.")
    where = "the state dict" if isinstance(source, dict) else source
    tensors, names = {}, {}
    state = plain_state(source if isinstance(source, dict) else read_checkpoint(source))
    for ours, key, tensor in renamed(state, kind):
        if ours in tensors:
            raise InputError(f"{where}: {key} and {names[ours]} are the same tensor of {kind}.")
        tensors[ours], names[ours] = tensor, key
    network = {"snet": SNet, "autoencoder": ShapeAutoencoder, "focusnet_sos": FocusNet,
               "focusnet": lambda: FocusNet(sos_inputs=None)}[kind]()
    load_strictly(network, tensors, where, names)
    return network.eval()


def guess_kind(state):
    """Which of KINDS a state dict of the authors is. Raises InputError when it is none of theirs."""
    keys = " ".join(f" {key}" for key in plain_state(state))
    if "conv1x." not in keys:
        if " fc1.weight" in keys:
            return "autoencoder"
        raise InputError("not a checkpoint of FocusNet. Name one of this project's or the authors'.")
    parts = {part for part, _ in map(split_name, plain_state(state))}
    return "focusnet_sos" if "share_" in keys else "focusnet" if len(parts) > 1 else "snet"


def renamed(state, kind):
    """(our name, the authors' key, tensor) of every entry; what has no place keeps its key."""
    if kind == "autoencoder":
        yield from ((_apply("autoencoder", key), key, tensor) for key, tensor in state.items())
        return
    names = {}
    for key in state:
        names.setdefault(split_name(key)[0], []).append(split_name(key)[1])
    parts, n_branches = {}, 0
    for prefix, within in names.items():
        if any(name.startswith("share_") for name in within):
            parts[prefix] = f"branches.{n_branches}."
            n_branches += 1
        else:
            parts[prefix] = "backbone." if any(name.startswith("conv1x") for name in within) else "localise."
    for key, tensor in state.items():
        prefix, within = split_name(key)
        part = parts[prefix]
        ours = part + _apply("branch" if part.startswith("branches") else part[:-1], within)
        yield ours.removeprefix("backbone.") if kind == "snet" else ours, key, tensor


def split_name(key):
    """(the part's name with its dot, the tensor's name within it)."""
    match = WITHIN.fullmatch(key)
    return match.groups() if match else ("", key)


def _apply(part, name):
    for pattern, replacement in RENAMES[part]:
        name = re.sub(pattern, replacement, name)
    return name


def plain_state(loaded):
    """The tensors of a checkpoint, keys without `module.`"""
    state = next((loaded[name] for name in ("model", "state_dict") if isinstance(loaded.get(name), dict)), loaded)
    return {str(key).removeprefix("module."): value for key, value in state.items()}
