"""The networks over a CT, window by window."""
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from focusnet_v2.config import Config
from focusnet_v2.grids import AIR_HU, cut, onto_grid, seen_box, unit
from focusnet_v2.networks import FocusNet, MainPart
from shared_data.named_types import Array, Box, Geometry, Labels, Progress, Shape
from shared_data.volume import geometry
from shared_torch.devices import autocast, check_finite, quickest_layout
from shared_torch.engines import Compiled, Engine, choose_engine

Network = Callable[[torch.Tensor], Any]  # a tensor of logits, or FocusNet's dict
Outputs = dict[str, torch.Tensor]  # of a network, as FocusNet names them
Look = Callable[[Shape, Outputs], object]  # gets the first voxel (z, y, x) of a window in the CT, and the outputs there
Maps = dict[str, Any]  # what `predict_volume` gives
Bring = Callable[[Array, Box], tuple[Array, Box]]  # of (map, box): (values on another grid, their box there)
MAPS = ("probability", "heatmap", "small")  # of a prediction, summed over members


def ready(network: torch.nn.Module, engine: Engine, config: Config, device: torch.device) -> Network:
    """A network for `predict_volume`: on the device, or compiled by the `Engine`."""
    if choose_engine(engine, device.type) == "torch":
        quickest_layout(network, device, config.precision)
        return network.to(device)
    if not isinstance(network, FocusNet):
        whole = compiled(network, 1, config)
        return lambda image: whole(image)[0]
    channels = 2 * config.width + 2 if network.sos_inputs == "all" else 1
    main = compiled(MainPart(network), 1, config)
    branches = [compiled(branch, channels, config) for branch in network.branches]
    return lambda image: network.branched(image, lambda i, box: branches[i](box)[0], *main(image))


def compiled(network: torch.nn.Module, channels: int, config: Config) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """What OpenVINO makes of a network: a function of a tensor (B, channels, Z, Y, X), its outputs as a list."""
    example = torch.zeros(1, channels, 2, 4, 4)
    run = Compiled(partial(torch.jit.trace, network, example, check_trace=False), config.precision,
                   torch.get_num_threads())
    return lambda x: [torch.from_numpy(output) for output in run(x)]


def window_starts(depth: int, window: int, step: int) -> list[int]:
    """First slices of the windows: `step` apart, the last one flush with the end, none twice."""
    return [*range(0, depth - window, step), depth - window]


@torch.inference_mode()
def predict_volume(network: Network, hu_zyx: Array, config: Config, device: torch.device,
                   progress: Progress = iter, look: Look | None = None) -> Maps:
    """What a network sees in the `seen_box` of a CT on its grid, HU (z, y, x); progress wraps the windows, tqdm say;
    look is shown the outputs of each.

    Returns {"start", first voxel of the crop, "probability" (C, z, y, x), "heatmap" and "small" (n_small, z, y, x),
    None where the network has none, all means over the windows, "counted" (n_small,): a box of the organ counted}.
    """
    start, shape = seen_box(hu_zyx, config)
    short = -start[0]
    inside = cut(hu_zyx, (0, *start[1:]), (len(hu_zyx), *shape[1:]), AIR_HU)
    volume = torch.from_numpy(unit(cut(inside, (-short, 0, 0), shape, "edge")))
    sums: dict[str, torch.Tensor] = {}
    coverage = torch.zeros(shape[0])
    small, boxes = torch.zeros(2, config.n_small, *shape)  # summed probabilities, and how many boxes cover a voxel
    for first in progress(window_starts(shape[0], config.patch_zyx[0], config.window_step)):
        window = slice(first, first + config.patch_zyx[0])
        outputs = run(network, volume[None, None, window].to(device), config)
        if look:
            look((first - short, *start[1:]), outputs)
        outputs["probability"] = outputs.pop("logits").softmax(1)
        for name in ("probability", "heatmap"):
            if name in outputs:
                sums.setdefault(name, torch.zeros(outputs[name].shape[1], *shape))[:, window] += outputs[name][0].cpu()
        coverage[window] += 1
        for i in range(config.n_small if "small" in outputs else 0):
            if outputs["heatmap"][0, i].max() > config.heatmap_threshold:
                corner = (outputs["corners"][0, i] + torch.tensor([first, 0, 0], device=device)).tolist()
                box = (i, *(slice(at, at + side) for at, side in zip(corner, config.box_zyx)))
                small[box] += outputs["small"][0, i].sigmoid().cpu()
                boxes[box] += 1
    for total in sums.values():
        total /= coverage[:, None, None]
    counted = boxes.flatten(1).any(1).numpy()
    small /= boxes.clamp_min(1)  # never 0 / 0
    parts = {"probability": sums["probability"], "heatmap": sums.get("heatmap"),
             "small": small if counted.any() else None}
    return {"start": (0, *start[1:]), "counted": counted,
            **{name: None if part is None else part[:, short:].numpy() for name, part in parts.items()}}


def run(network: Network, image: torch.Tensor, config: Config) -> Outputs:
    """Outputs of a network in float32."""
    with autocast(image.device, config.precision):
        outputs = by_name(network(image))
    for output in outputs.values():
        check_finite(output, config.precision)
    return {name: value.float() if value.is_floating_point() else value for name, value in outputs.items()}


def by_name(outputs: Outputs | torch.Tensor) -> Outputs:
    """What FocusNet or S-Net, which has logits alone, gives."""
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


def fuse(prediction: Maps, config: Config, shape: Sequence[int] | None = None,
         bring: Bring = lambda array, box: (array[box], box)) -> tuple[Labels, Labels]:
    """(labels of the main network, labels after the branches), both (z, y, x) uint8, of `predict_volume`.

    A small organ of which a box counted is the branch's: its label in the main map gives way to the next probable, and
    voxels above `small_threshold` get it. shape, bring: of another grid, and onto it, the part of a map (z, y, x) in a
    box: (interpolated values, their box there).
    """
    probability, small = prediction["probability"], prediction["small"]
    shape = shape or probability.shape[1:]
    main = _most_probable(probability, range(len(probability)), shape, bring)
    counted = np.flatnonzero(prediction["counted"])
    if not len(counted):
        return main, main.copy()
    replaced = [config.small_labels[i] for i in counted]
    final = _most_probable(probability, [label for label in range(len(probability)) if label not in replaced], shape,
                           bring)
    surest = np.full(shape, config.small_threshold, np.float32)
    for i, label in zip(counted, replaced):
        if box := _around(small[i] > config.small_threshold):
            _take_where_higher(final, surest, label, *bring(small[i], box))
    return main, final


def _most_probable(probability, labels, shape, bring):
    """Of the interpolated maps of `labels`, background first, the highest at each voxel; the first of equal ones.

    A map can be the highest only next to a voxel where it reaches the maps' mean: elsewhere it is not interpolated.
    What is left over is background.
    """
    result, highest = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    least = sum(probability[label] for label in labels) / len(labels) - 1e-6  # less what rounding does
    contends = {label: probability[label] >= least for label in labels[1:]}
    boxes = {labels[0]: _around(np.logical_or.reduce([*contends.values()])),
             **{label: _around(where) for label, where in contends.items()}}
    for label, box in boxes.items():
        if box:
            _take_where_higher(result, highest, label, *bring(probability[label], box))
    return result


def _around(where):
    """The box (z, y, x) of what is true, with a voxel around it; None where nothing is."""
    if not where.any():
        return None
    spans = [np.flatnonzero(where.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    return tuple(slice(int(max(0, span[0] - 1)), int(min(span[-1] + 2, n))) for span, n in zip(spans, where.shape))


def _take_where_higher(labels, highest, label, values, box):
    higher = values > highest[box]
    labels[box][higher] = label
    highest[box][higher] = values[higher]


def heatmap_peaks(prediction: Maps) -> list[tuple[float, Array]] | None:
    """[(peak value, its voxel (z, y, x) on the network's grid)] for each small organ; None without heatmaps."""
    if prediction["heatmap"] is None:
        return None
    return [(float(heatmap.max()), np.add(np.unravel_index(heatmap.argmax(), heatmap.shape), prediction["start"]))
            for heatmap in prediction["heatmap"]]


def predict_members(networks: Sequence[Network], hu_zyx: Array, config: Config, device: torch.device,
                    progress: Progress = iter) -> tuple[Maps, Labels | None]:
    """(`predict_volume` of networks asked together, each one's own labels after the branches (members, z, y, x)); of
    one network its own, and None.

    Means over the members: one sum is kept, not every member's maps. A small organ's branch speaks where a box counted
    for half of the members, with the mean of theirs.
    """
    if len(networks) == 1:
        return predict_volume(networks[0], hu_zyx, config, device, progress), None
    total: Maps = {}
    votes, n_counted = [], np.zeros(config.n_small, int)
    for network in networks:
        part = predict_volume(network, hu_zyx, config, device, progress)
        votes.append(fuse(part, config)[1])
        n_counted += part["counted"]
        total = {**total, **{name: _sum(total[name], part[name]) for name in MAPS}} if total else part
    for name in ("probability", "heatmap"):
        if total[name] is not None:
            total[name] /= len(networks)
    if total["small"] is not None:
        total["small"] /= np.maximum(n_counted, 1)[:, None, None, None]
    return {**total, "counted": (n_counted > 0) & (2 * n_counted >= len(networks))}, np.stack(votes)


def _sum(total, part):
    """Of two maps, the first changed in place; None is nothing."""
    if total is None or part is None:
        return part if total is None else total
    total += part
    return total


def segment_ct(networks: Sequence[Network] | Network, ct: sitk.Image, resampled: sitk.Image, config: Config,
               device: torch.device, progress: Progress = iter,
               look: Callable[[Maps], object] | None = None) -> dict[str, Any]:
    """Labels on a whole CT's grid by one network, or by several together; ct: in LPS, resampled: the same on the
    network's grid; look: gets what `predict_members` says.

    Returns {"main", "final": labels (z, y, x) of the main network, and after the branches, "counted": as in
    `predict_volume`, "peaks": [(value, place in mm)] of the heatmaps, or None, "votes": of several each one's own
    labels (members, z, y, x), or None}.
    """
    networks = [networks] if callable(networks) else networks
    prediction, votes = predict_members(networks, sitk.GetArrayViewFromImage(resampled), config, device, progress)
    if look:
        look(prediction)
    first = resampled.TransformContinuousIndexToPhysicalPoint([float(i) for i in prediction["start"][::-1]])
    part_grid: Geometry = {**geometry(resampled), "origin_xyz": list(first)}
    peaks = heatmap_peaks(prediction)
    labels = fuse(prediction, config, ct.GetSize()[::-1], lambda array, box: onto_grid(array, part_grid, ct, box))
    place = resampled.TransformContinuousIndexToPhysicalPoint
    return {"main": labels[0], "final": labels[1], "counted": prediction["counted"],
            "votes": None if votes is None else np.stack([_onto_ct(vote, part_grid, ct) for vote in votes]),
            "peaks": peaks and [(value, place([float(i) for i in voxel[::-1]])) for value, voxel in peaks]}


def _onto_ct(labels_zyx, part_grid, ct):
    """Labels on a part of a CT's network grid, `part_grid` its geometry, as labels on the whole CT's own."""
    whole = np.zeros(ct.GetSize()[::-1], np.uint8)
    values, box = onto_grid(labels_zyx, part_grid, ct, interpolator=sitk.sitkNearestNeighbor)
    whole[box] = values
    return whole
