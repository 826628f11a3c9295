"""Windows, fusion, vote entropy and error rates against the authors' numbers."""
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sepnet.config import Config
from sepnet.ensemble_seg import fuse
from sepnet.error_rate import count_errors, error_table
from sepnet.inference import predict_slices, ready, segment, window_starts
from sepnet.networks import SepNet
from shared_data.errors import InputError
from shared_data.votes import vote_entropy, vote_levels
from shared_torch.devices import autocast


@pytest.mark.parametrize("depth", [40, 41, 60])
def test_windows_equal_the_authors(golden, depth):
    expected = json.loads((golden / "prep_sepnet_windows.json").read_text())["windows"]
    starts = window_starts(depth, 16, 2)
    assert [[start, start + 16] for start in starts] == expected[f"overlap_depth{depth}_clip2_overlap8"]["windows"]
    if depth < 60:
        assert [[s, s + 16] for s in window_starts(depth, 16, 16)] == expected[f"plain_depth{depth}_clip16"]["windows"]


@given(st.integers(1, 60), st.sampled_from([16, 24]), st.integers(1, 16), st.integers(1, 5))
def test_streamed_sums_equal_sums_over_the_whole_volume(depth, window, step, batch):
    config = Config(n_classes=2, window_slices=window, window_step=step, window_batch=batch, precision="32-true")
    volume = np.random.default_rng(depth).random((depth, 2, 3)).astype(np.float32)

    def network(x):
        return torch.cat([x, 1 - x], dim=1)

    streamed = torch.cat(list(predict_slices(network, volume, config, torch.device("cpu"))), dim=1).numpy()
    coverage = np.zeros(max(depth, window))
    for start in window_starts(max(depth, window), window, step):
        coverage[start:start + window] += 1
    assert coverage.min() >= 1 and streamed.shape == (2, depth, 2, 3)
    assert np.allclose(streamed[0], volume * coverage[:depth, None, None], atol=1e-5)


def test_coverage_equals_the_authors(golden):
    for entry in json.loads((golden / "prep_sepnet_windows.json").read_text())["windows"].values():
        if "coverage" in entry:
            volume = np.zeros((len(entry["coverage"]), 1, 1), np.float32)
            parts = predict_slices(torch.ones_like, volume, Config(n_classes=2, precision="32-true"),
                                   torch.device("cpu"))
            assert torch.cat(list(parts), dim=1)[0, :, 0, 0].tolist() == entry["coverage"]


def test_batched_windows_equal_single_ones():
    torch.manual_seed(0)
    network, volume = SepNet(5, 4).eval(), np.random.default_rng(0).random((21, 16, 24)).astype(np.float32)
    single, three = (torch.cat(list(predict_slices(
        network, volume, Config(n_classes=5, window_batch=batch, precision="32-true"), torch.device("cpu"))), dim=1)
        for batch in (1, 3))
    assert torch.allclose(single, three, atol=1e-4)


@torch.inference_mode()
def test_openvino_gives_what_pytorch_gives():
    torch.manual_seed(0)
    network, image = SepNet(5, 4).eval(), torch.rand(2, 1, 16, 32, 24)
    expected = network(image)
    compiled = ready(network, "openvino", Config(precision="32-true"), torch.device("cpu"))
    torch.testing.assert_close(compiled(image), expected, atol=5e-3, rtol=0)  # noise that instance norms amplify


@pytest.mark.parametrize("precision", ["auto", "8-mixed"])
def test_a_precision_that_is_not_resolved_is_refused(precision):
    with pytest.raises(ValueError, match=f"precision '{precision}' is none of 32-true"):
        autocast(torch.device("cpu"), precision)
    volume = np.zeros((16, 16, 16), np.float32)
    with pytest.raises(ValueError, match="precision 'auto' is none of"):
        next(predict_slices(SepNet(5, 4).eval(), volume, Config(n_classes=5), torch.device("cpu")))


def test_members_are_fused_by_their_summed_probabilities():
    def member(probability):
        return lambda x: torch.stack([torch.full_like(x[:, 0], p) for p in probability], dim=1)

    config, volume = Config(n_classes=3, precision="32-true"), np.zeros((20, 2, 2), np.float32)
    members = [member(p) for p in ((0.5, 0.4, 0.1), (0.5, 0.4, 0.1), (0.0, 0.1, 0.9))]
    labels, votes = segment(members, [volume] * 3, config, torch.device("cpu"))
    assert labels.shape == (20, 2, 2) and (labels == 2).all()  # 1.0, 0.9, 1.1
    assert [set(np.unique(vote)) for vote in votes] == [{0}, {0}, {2}]


def test_fusion_of_stored_scores_equals_the_authors(golden):
    arrays = np.load(golden / "prep_sepnet_ensemble.npz")
    assert np.array_equal(fuse(arrays["scores"]), arrays["label"])


def test_vote_entropy_equals_the_authors(golden):
    arrays = np.load(golden / "prep_sepnet_uncertainty.npz")
    assert np.allclose(vote_entropy(arrays["votes"]), arrays["entropy"], atol=1e-6)
    for row in json.loads((golden / "prep_sepnet_windows.json").read_text())["uncertainty"]["table"]:
        votes = np.repeat(np.arange(len(row["votes"])), row["votes"])[:, None]
        assert vote_entropy(votes)[0] == pytest.approx(row["entropy"], abs=1e-6)
        assert list(vote_levels(votes)[1].values()) == ["+".join(map(str, row["votes"]))]


@given(st.lists(st.integers(0, 22), min_size=6, max_size=6))
def test_levels_tell_splits_apart_whatever_the_classes(votes):
    (split,) = vote_levels(np.array(votes)[:, None])[1].values()
    assert split == "+".join(map(str, sorted(Counter(votes).values(), reverse=True)))


def test_error_rates_are_counted_per_split():
    votes = np.array([[1, 1, 1, 1, 2], [1, 1, 1, 2, 2], [1, 1, 2, 2, 3]])
    voxels, wrong = Counter(), Counter()
    for _ in range(2):
        count_errors(votes, np.array([False, True, True, False, True]), voxels, wrong)
    rows = {row["votes"]: SimpleNamespace(**row) for row in error_table(voxels, wrong)}
    assert list(rows) == ["3", "2+1"]
    assert rows["3"].voxels == 4 and rows["3"].error_rate == 0.5 and rows["2+1"].voxels == 6
    assert rows["2+1"].wrong == 4 and rows["2+1"].entropy == pytest.approx(0.6365, abs=1e-4)


def test_values_beyond_float16_are_named():
    volume = np.zeros((16, 8, 8), np.float32)
    with pytest.raises(InputError, match="--precision 32-true"):
        next(predict_slices(lambda windows: windows.expand(-1, 3, -1, -1, -1) / 0,
                            volume, Config(n_classes=3, precision="16-mixed"), torch.device("cpu")))
