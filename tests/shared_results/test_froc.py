"""FROC and CPM as the challenge counts, against a hand-worked example and a second computation."""
import numpy as np
import pytest

from shared_results.froc import FALSE_POSITIVES_PER_SCAN, bootstrap, cpm, froc_curve, match, sensitivities


def test_hits_double_hits_and_excluded_findings():
    nodules = [(0, 0, 0, 10), (100, 0, 0, 4)]
    excluded = [(50, 0, 0, 6), (70, 0, 0, -1)]
    candidates = [(0, 0, 4.9, 0.7), (1, 0, 0, 0.9), (0, 5.0, 0, 0.8),  # hit, better hit, on the radius: outside
                  (50, 2, 0, 0.95), (70, 4.9, 0, 0.6), (70, 5.1, 0, 0.5),  # excluded, excluded by 10 mm, beyond
                  (30, 0, 0, 0.4)]
    best, false = match(candidates, nodules, excluded)
    assert best.tolist() == [0.9, -np.inf] and sorted(false.tolist()) == [0.4, 0.5, 0.8]
    assert match([], nodules)[0].tolist() == [-np.inf, -np.inf]


def test_a_hand_worked_example():
    # Two scans, four nodules. By falling probability: hit .9, false .8, hit .7, false .6, false .5, hit .4; one missed.
    scans = [match([(0, 0, 0, 0.9), (50, 0, 0, 0.8), (9, 9, 9, 0.6)], [(0, 0, 0, 8), (20, 0, 0, 8)]),
             match([(0, 0, 0, 0.7), (50, 0, 0, 0.5), (20, 0, 0, 0.4)], [(0, 0, 0, 8), (20, 0, 0, 8)])]
    rates, sensitivity = froc_curve(scans)
    assert rates.tolist() == [0, 0, 0.5, 0.5, 1, 1.5, 1.5]
    assert sensitivity.tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75]
    # at 1/8 and 1/4 linear between (0, 1/4) and (1/2, 1/2); at 1/2 and 1: 1/2; from 2 on 3/4
    assert sensitivities(scans).tolist() == [0.3125, 0.375, 0.5, 0.5, 0.75, 0.75, 0.75]
    assert cpm(scans) == pytest.approx((0.3125 + 0.375 + 0.5 + 0.5 + 3 * 0.75) / 7)


def test_thousands_of_candidates_agree_with_a_second_computation():
    rng = np.random.default_rng(0)
    scans, everything = [], []
    for _ in range(60):
        nodules = [(*rng.uniform(0, 300, 3), rng.uniform(4, 25)) for _ in range(rng.integers(0, 5))]
        excluded = [(*rng.uniform(0, 300, 3), rng.choice([-1.0, 8.0])) for _ in range(4)]
        places = [(*rng.uniform(0, 300, 3), round(rng.random(), 2)) for _ in range(80)]
        for finding in nodules + excluded:
            places += [(*(np.array(finding[:3]) + rng.normal(0, 4, 3)), round(rng.random() ** 0.5, 2))
                       for _ in range(rng.integers(0, 4))]
        scans.append(match(places, nodules, excluded))
        everything.append((places, nodules, excluded))
    assert sum(len(places) for places, _, _ in everything) > 5000
    points = [(0.0, 0.0)]
    n_nodules = sum(len(nodules) for _, nodules, _ in everything)
    for cut in sorted({place[3] for places, _, _ in everything for place in places}, reverse=True):
        found = wrong = 0
        for places, nodules, excluded in everything:  # one by one, without arrays
            kept = [place for place in places if place[3] >= cut]
            for nodule in nodules:
                found += any(inside(place, nodule, nodule[3]) for place in kept)
            for place in kept:
                on_nodule = any(inside(place, nodule, nodule[3]) for nodule in nodules)
                on_excluded = any(inside(place, finding, 10.0 if finding[3] < 0 else finding[3])
                                  for finding in excluded)
                wrong += not on_nodule and not on_excluded
        points.append((wrong / len(everything), found / n_nodules))
    rates, values = zip(*points)
    expected = []
    for rate in FALSE_POSITIVES_PER_SCAN:
        after = next((k for k, value in enumerate(rates) if value > rate), len(rates))
        if after == len(rates):
            expected.append(values[-1])
            continue
        low, high = after - 1, max(k for k, value in enumerate(rates) if value == rates[after])
        share = (rate - rates[low]) / (rates[high] - rates[low])
        expected.append(values[low] + share * (values[high] - values[low]))
    assert np.allclose(sensitivities(scans), expected, atol=1e-12)
    interval = bootstrap(scans, 200)
    assert interval["cpm"][0] < cpm(scans) < interval["cpm"][1] and interval == bootstrap(scans, 200)


def inside(place, finding, diameter):
    return sum((a - b) ** 2 for a, b in zip(place[:3], finding[:3])) < (diameter / 2) ** 2


def test_a_drawn_set_without_a_nodule_is_drawn_anew():
    scans = [match([(0, 0, 0, 0.5)], [(0, 0, 0, 5)]), *[match([], [])] * 30]
    assert all(bootstrap(scans, samples=1, seed=seed)["cpm"] == (1, 1) for seed in range(10))
    with pytest.raises(ValueError, match="no nodule"):
        bootstrap(scans[1:])


def test_no_candidate_and_no_nodule():
    assert cpm([match([], [(0, 0, 0, 5)])]) == 0
    with pytest.raises(ValueError, match="no nodule"):
        cpm([match([(0, 0, 0, 0.5)], [])])
