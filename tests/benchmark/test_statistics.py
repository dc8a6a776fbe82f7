"""Statistics against rliable's formulas, written out in loops, and against every resample there is."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gaze_torchrl.benchmark.statistics import (
    Estimate,
    bootstrap,
    estimate,
    frames_to,
    improvement,
    iqm,
    performance_profile,
    sample_efficiency,
)

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=9)
STRATA = st.lists(SCORES, min_size=1, max_size=4)


@given(STRATA)
def test_iqm_is_rliables(strata):
    """``scipy.stats.trim_mean(scores, proportiontocut=0.25, axis=None)`` of all runs of all tasks."""
    expected = scipy.stats.trim_mean([value for one in strata for value in one], 0.25)
    assert iqm(*strata) == pytest.approx(expected)


def test_iqm_cuts_a_quarter_from_each_end():
    assert iqm([100.0, 3.0, 2.0, -50.0]) == 2.5
    assert iqm([1.0, 2.0, 6.0]) == 3.0, "of three seeds nothing is cut"
    assert iqm(np.array([[1.0, 2.0, 3.0, 99.0], [0.0, 0.0, 4.0, 4.0]])).tolist() == [2.5, 2.0]


@given(st.floats(-5, 5), st.integers(1, 12))
def test_iqm_of_equal_values_is_that_value(value, count):
    assert iqm([value] * count) == pytest.approx(value)


def improvement_of(x, y):
    """rliable: the U statistic of Mann and Whitney over the number of pairs; equal arrays give a half."""
    wins = 0.0
    for one in x:
        for other in y:
            wins += 1.0 if one > other else 0.5 if one == other else 0.0
    return wins / (len(x) * len(y))


@given(SCORES, SCORES)
def test_improvement_is_rliables(x, y):
    expected = improvement_of(x, y)
    u = scipy.stats.mannwhitneyu(x, y, alternative="greater").statistic
    assert expected == pytest.approx(u / (len(x) * len(y)))
    assert improvement(x, y) == pytest.approx(expected)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    assert improvement(x, x) == pytest.approx(0.5)


@given(STRATA, st.randoms())
def test_the_order_of_seeds_does_not_matter(strata, random):
    shuffled = [random.sample(one, len(one)) for one in strata]
    assert iqm(*shuffled) == pytest.approx(float(iqm(*strata)))
    assert improvement(shuffled[0], strata[-1]) == improvement(strata[0], strata[-1])
    assert np.array_equal(performance_profile([0.2, 0.5], *shuffled), performance_profile([0.2, 0.5], *strata))


@given(STRATA)
def test_profiles_are_shares_of_runs_and_never_rise(strata):
    thresholds = np.linspace(-0.1, 1.1, 25)
    expected = []
    for level in thresholds:
        shares = [sum(value > level for value in one) / len(one) for one in strata]
        expected.append(sum(shares) / len(shares))
    found = performance_profile(thresholds, *strata)
    assert found == pytest.approx(np.array(expected))
    assert (np.diff(found) <= 1e-12).all()
    assert found[0] == pytest.approx(1)
    assert found[-1] == 0


def test_profile_is_rliables_where_settings_have_equal_seeds():
    scores = np.random.default_rng(0).random((5, 3))  # runs x tasks
    for level in (0.2, 0.5, 0.9):
        assert performance_profile([level], *scores.T)[0] == pytest.approx(np.mean(scores > level))


@settings(deadline=None, max_examples=50)
@given(STRATA)
def test_an_interval_holds_the_point_and_lies_within_the_values(strata):
    point, low, high = bootstrap(iqm, *strata, resamples=500)
    assert low <= point + 1e-12
    assert point <= high + 1e-12
    every = [value for one in strata for value in one]
    assert min(every) <= low + 1e-12
    assert high <= max(every) + 1e-12


def test_the_bootstrap_is_scipys_percentile_one():
    values = [np.random.default_rng(seed).normal(size=8) for seed in (1, 2)]

    def pooled(*strata, axis=-1):
        return scipy.stats.trim_mean(np.concatenate(strata, axis), 0.25, axis=axis)

    theirs = scipy.stats.bootstrap(values, pooled, n_resamples=20_000, method="percentile", random_state=3)
    _, low, high = bootstrap(iqm, *values, resamples=20_000, seed=4)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_strata_are_resampled_apart_and_seeds_as_a_whole():
    # Were the four seeds drawn together, their mean would vary.
    assert [one.item() for one in bootstrap(iqm, [0.0, 0.0], [1.0, 1.0])] == [0.5, 0.5, 0.5]
    # The second evaluation of each seed is its first plus one: in every resample, if curves stay together.
    curves = np.array([[0.0, 1.0, 5.0], [1.0, 2.0, 6.0]])
    point, low, high = bootstrap(lambda one: iqm(one)[1] - iqm(one)[0], curves)
    assert [one.item() for one in (point, low, high)] == pytest.approx([1, 1, 1])


def test_equal_seeds_of_the_bootstrap_give_equal_intervals():
    values = np.random.default_rng(0).random(7)
    assert bootstrap(iqm, values) == bootstrap(iqm, values)
    assert bootstrap(iqm, values)[1:] != bootstrap(iqm, values, seed=1)[1:]


def test_a_single_seed_has_no_interval():
    assert all(math.isnan(end) for end in estimate(iqm, [0.3])[1:3])
    assert all(math.isnan(end) for end in sample_efficiency([10, 20], [[0.0], [1.0]], [[1.0], [1.0]])[1:3])
    assert math.isnan(estimate(improvement, [0.3], [0.2, 0.4]).low), "how far others would be is known of one side only"
    assert not math.isnan(estimate(improvement, [0.3, 0.1], [0.2, 0.4]).low)


@given(st.lists(SCORES.filter(lambda one: len(one) >= 3), min_size=1, max_size=3), st.sampled_from([0.1, 0.5, 2.0]))
def test_frames_to_a_level_is_the_first_evaluation_there(seeds, level):
    length = min(map(len, seeds))
    curves = np.array([one[:length] for one in seeds]).T
    frames = [10 * (i + 1) for i in range(length)]
    expected = [next((frame for frame, v in zip(frames, one, strict=False) if v >= level), math.inf) for one in seeds]
    assert frames_to(frames, curves, level).tolist() == expected


def ratio_bounds(frames, base, mine, level):
    """The least and the greatest that the ratio can be, by the definition."""
    mean = lambda one: [scipy.stats.trim_mean(row, 0.25) for row in one]  # noqa: E731
    curve, other = mean(base), mean(mine)
    goal = max(curve) if level is None else level
    reach = lambda one: next((frame for frame, v in zip(frames, one, strict=True) if v >= goal), None)  # noqa: E731
    slow, fast = reach(curve), reach(other)
    if slow is None and fast is None:
        return 0.0, math.inf
    if fast is None:
        return 0.0, slow / frames[-1]
    if slow is None:
        return frames[-1] / fast, math.inf
    return slow / fast, slow / fast


CURVES = st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=2), min_size=4, max_size=4)


@settings(deadline=None, max_examples=60)
@given(CURVES, CURVES, st.sampled_from([None, 0.5, 0.75]))
def test_sample_efficiency_is_that_of_every_resample(base, mine, level):
    """Two seeds each have 16 resamples, all of which a bootstrap of 2000 meets: its ends are theirs."""
    frames = [10, 20, 30, 40]
    base, mine = np.array(base), np.array(mine)
    found = sample_efficiency(frames, base, mine, level)
    least, greatest = ratio_bounds(frames, base, mine, level)
    if least == greatest:
        assert found.point == pytest.approx(least)
        assert found.bound == ""
    elif least > 0:
        assert (found.point, found.bound) == (pytest.approx(least), ">")
    elif greatest < math.inf:
        assert (found.point, found.bound) == (pytest.approx(greatest), "<")
    else:
        assert math.isnan(found.point)
    pairs = list(itertools.product(range(2), repeat=2))
    every = [ratio_bounds(frames, base[:, one], mine[:, other], level) for one in pairs for other in pairs]
    assert found.low == pytest.approx(min(one for one, _ in every))
    assert found.high == pytest.approx(max(other for _, other in every))


def test_sample_efficiency_of_known_curves():
    frames = [10, 20, 30, 40]
    slow = np.array([[0.0] * 3, [0.2] * 3, [0.5] * 3, [1.0] * 3])
    fast = np.array([[1.0] * 3] * 4)
    never = np.zeros((4, 3))
    assert sample_efficiency(frames, slow, fast) == Estimate(4, 4, 4)
    assert sample_efficiency(frames, slow, slow) == Estimate(1, 1, 1)
    assert sample_efficiency(frames, slow, fast, level=0.5) == Estimate(3, 3, 3)
    assert sample_efficiency(frames, slow, never) == Estimate(1, 0, 1, "<"), "slower than 40 frames of 40"
    assert sample_efficiency(frames, never, fast, level=0.5) == Estimate(4, 4, math.inf, ">"), (
        "the baseline is censored"
    )
