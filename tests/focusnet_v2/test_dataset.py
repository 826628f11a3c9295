"""Heatmaps and augmentation against the authors' numbers; what patches hold."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from focusnet_v2.augment import augment, draw_theta, named_theta, original_theta, resample_patches
from focusnet_v2.config import Config
from focusnet_v2.dataset import MaskDataset, Order, PatchDataset, build_loader, draw_start, load_cases
from focusnet_v2.heatmaps import heatmaps, organ_centres
from shared_data.errors import InputError


@pytest.fixture
def config(prepared):
    return Config(prepared_dir=prepared, spacing_xyz=(4, 4, 5), crop_side=40, patch_zyx=(8, 32, 32), min_slices=12,
                  box_zyx=(8, 16, 16), window_step=6)


def test_heatmaps_equal_the_authors_and_ours_peak_at_the_centre(golden):
    arrays = np.load(golden / "prep_focusnet_heatmap.npz")
    centres = organ_centres(arrays["labels"])
    shape = arrays["labels"].shape
    assert np.abs(heatmaps(centres, shape, 5, "original") - arrays["heatmap"]).max() < 1e-6
    ours = heatmaps(centres, shape)
    assert [np.unravel_index(one.argmax(), shape) for one in ours] == [tuple(centre) for centre in centres]
    assert np.allclose(ours[:, :, 1:, 1:], arrays["heatmap"][:, :, :-1, :-1], atol=1e-6)  # theirs, one voxel on


def test_heatmaps_at_the_edges_and_of_missing_organs():
    first = np.array([[0.0, 8, 8]])
    assert not heatmaps(first, (6, 16, 16), offsets="original").any()  # theirs loses a centre in slice 0
    assert np.flatnonzero(heatmaps(first, (6, 16, 16))[0].any((1, 2))).tolist() == [0, 1]
    assert np.flatnonzero(heatmaps(np.array([[5.0, 8, 8]]), (6, 16, 16))[0].any((1, 2))).tolist() == [4, 5]
    assert not heatmaps(np.full((1, 3), np.nan), (6, 16, 16)).any()
    outside = heatmaps(np.array([[-1.0, 8, -3]]), (6, 16, 16))  # a patch beside the centre shows the rim
    assert np.flatnonzero(outside[0].any((1, 2))).tolist() == [0] and outside.argmax() % 16 == 0


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("align_corners", [False, True])
def test_zoom_and_rotation_equal_the_authors(golden, case, align_corners):
    arrays = np.load(golden / "prep_focusnet_affine.npz")
    settings_ = json.loads((golden / "prep_focusnet_affine.json").read_text())["cases"][case]
    zoom_zyx, degrees_zyx = ([values[0], values[2], values[1]] for values in (settings_["scale_zxy"],
                                                                              settings_["angle_deg_zxy"]))
    theta = original_theta(zoom_zyx, degrees_zyx)
    assert np.allclose(theta, arrays[f"theta_case{case}"], atol=1e-6)
    image, label, heat = resample_patches(
        torch.from_numpy(theta.astype(np.float32))[None], torch.from_numpy(arrays["img"])[None, None],
        torch.from_numpy(arrays["label"])[None, None], torch.from_numpy(arrays["heat"])[None], align_corners)
    end = f"case{case}_ac{int(align_corners)}"
    assert np.abs(image[0, 0].numpy() - arrays[f"img_{end}"]).max() < 1e-5
    assert (label[0, 0].numpy() == arrays[f"label_{end}"]).mean() > 0.999
    if case == 0:
        assert np.abs(heat[0].numpy() - arrays[f"heat_{end}"]).max() < 1e-5


def test_on_a_cube_ours_is_theirs_with_the_axes_put_right():
    zoom_zyx, degrees_zyx = (0.93, 1.02, 1.08), (3, 5, -7)
    order = [1, 2, 0]
    assert np.allclose(named_theta(zoom_zyx, degrees_zyx)[:, :3],
                       original_theta(zoom_zyx, degrees_zyx)[np.ix_(order, order)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_zoom_and_each_angle_acts_on_the_axis_it_names(axis):
    image = torch.rand(1, 1, 9, 16, 16)
    label = torch.zeros_like(image, dtype=torch.uint8)
    flat = image.mean(axis + 2, keepdim=True).expand_as(image).contiguous()  # the same all along the axis
    zoom = np.ones(3)
    zoom[axis] = 0.8
    theta = torch.from_numpy(named_theta(zoom, (0, 0, 0), (22.5, 32, 16))).float()[None]
    assert torch.allclose(resample_patches(theta, flat, label)[0], flat, atol=1e-5)
    assert not torch.allclose(resample_patches(theta, image, label)[0], image, atol=0.1)
    degrees = np.zeros(3)
    degrees[axis] = 8
    matrix = named_theta((1, 1, 1), degrees, (22.5, 32, 16))[:, :3]
    fixed = 2 - axis  # x is the first component
    assert np.allclose(matrix[fixed], np.eye(3)[fixed]) and np.allclose(matrix[:, fixed], np.eye(3)[:, fixed])
    half = np.array([16, 32, 22.5])
    in_mm = matrix * half[:, None] / half
    assert np.allclose(in_mm @ in_mm.T, np.eye(3))  # a rotation, nothing sheared


def test_a_patch_moves_image_label_and_heatmap_together(config):
    case = {"image": np.zeros((12, 40, 40), np.int16), "label": np.zeros((12, 40, 40), np.uint8), "case": "x",
            "presence": [1] * 10}
    case["label"][4:7, 16:23, 17:24] = 2
    case["image"][case["label"] == 2] = 900
    case["centres"] = organ_centres(case["label"])
    dataset = PatchDataset([case], replace(config, patch_zyx=(12, 40, 40)), 0.2, True)
    batch = next(iter(build_loader(dataset, 1, config)))
    moved = augment(batch, config)
    image, label, heat = moved["image"][0, 0], moved["label"][0, 0], moved["heatmap"][0, 0]
    assert not torch.equal(label, batch["label"][0, 0])
    assert ((image > 0.5) == (label == 2)).float().mean() > 0.99
    peak = np.array(np.unravel_index(int(heat.argmax()), heat.shape))
    assert np.abs(peak - np.argwhere(label.numpy() == 2).mean(0)).max() < 1.5
    assert augment(batch, replace(config, augment=False)) is batch


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10 ** 6), st.tuples(st.integers(8, 20), st.integers(32, 50), st.integers(32, 50)))
def test_patches_lie_inside_and_may_touch_every_edge(seed, shape):
    config = Config(patch_zyx=(8, 32, 32), box_zyx=(8, 16, 16), window_step=6, adv_top_offsets=3)
    start = draw_start(np.random.default_rng(seed), shape, config, top_share=1.0)
    assert (start >= 0).all() and (start + config.patch_zyx <= shape).all()
    assert start[0] > shape[0] - 8 - 3
    reached = {int(draw_start(np.random.default_rng(n), (9, 32, 32), config)[0]) for n in range(30)}
    assert reached == {0, 1}  # the last position too, which the authors leave out


def test_patches_depend_on_seed_epoch_and_index_alone(config):
    cases = load_cases(config, "train")
    one, other = (PatchDataset(cases, config, 0.1, True) for _ in range(2))
    assert all(torch.equal(one[3, 1][name], other[3, 1][name]) for name in ("image", "theta"))
    assert not torch.equal(one[3, 1]["theta"], one[4, 1]["theta"])
    assert not torch.equal(one[3, 1]["theta"], PatchDataset(cases, replace(config, seed=1), 0.1)[3, 1]["theta"])
    assert one[0, 0]["image"].shape == (1, 8, 32, 32) and one[0, 0]["heatmap"].shape == (3, 8, 32, 32)


def test_short_volumes_are_padded_at_the_low_end(config):
    case = load_cases(config, "train")[0]
    short = {**case, "image": case["image"][-5:], "label": case["label"][-5:], "centres": case["centres"]}
    item = PatchDataset([short], replace(config, patch_zyx=(12, 40, 40), augment=False), 0.1)[0, 0]
    assert torch.equal(item["image"][0, 0], item["image"][0, 7]) and not item["label"][0, :7].any()
    assert np.array_equal(item["label"][0, 7:].numpy(), case["label"][-5:])


def test_small_organs_are_marked_only_where_the_patch_holds_their_centre(config):
    for case in load_cases(config, "train"):
        dataset = PatchDataset([case], config, 0.1)
        for epoch in range(5):
            item = dataset[epoch, 0]
            for i, label in enumerate(Config().small_labels):
                if item["small"][i]:
                    assert case["presence"][label] and (item["label"] == label).any()


def test_every_process_gets_an_equal_share():
    shares = [[index for batch in Order(7, 2, 0, rank, 3) for _, index in batch] for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert {index for share in shares for index in share} == set(range(7))
    assert build_loader(range(8), 4, Config(), 0, 2).batch_sampler.batch_size == 2  # of the 4 on both devices
    order = Order(7, 2, 0)
    first = list(order)
    order.epoch = 1
    assert len(first) == len(order) == 4 and list(order) != first


def test_masks_are_small_organs_in_their_boxes(config):
    cases = load_cases(config, "train")
    masks = MaskDataset(cases, config)
    assert len(masks) == sum(int(case["presence"][label]) for case in cases for label in Config().small_labels)
    for index, (case, i) in enumerate(masks.masks):
        mask = masks[0, index]["mask"]
        assert mask.shape == (1, 8, 16, 16) and 0 < mask.sum() <= (case["label"] == Config().small_labels[i]).sum()
    jittered = MaskDataset(cases, config, (1, 4, 4))
    assert any(not torch.equal(jittered[0, 0]["mask"], jittered[epoch, 0]["mask"]) for epoch in range(1, 5))


def test_unprepared_or_damaged_cases_are_named(config, tmp_path):
    with pytest.raises(InputError, match="presence.csv: no such file"):
        load_cases(replace(config, prepared_dir=tmp_path), "train")
    (tmp_path / "presence.csv").write_text((config.prepared_dir / "presence.csv").read_text().replace(",1,", ",2,"))
    (tmp_path / "cases.csv").write_text((config.prepared_dir / "cases.csv").read_text())
    with pytest.raises(InputError, match="values other than 0 and 1"):
        load_cases(replace(config, prepared_dir=tmp_path), "train")
    (tmp_path / "presence.csv").write_text((config.prepared_dir / "presence.csv").read_text())
    with pytest.raises(InputError, match="image.nrrd: no such file"):
        load_cases(replace(config, prepared_dir=tmp_path), "train")


def test_theirs_is_drawn_on_request(config):
    one, other = (draw_theta(np.random.default_rng(0), replace(config, affine_order=order), 0.2)
                  for order in ("named", "original"))
    assert one.shape == other.shape == (3, 4) and not np.allclose(one, other)
