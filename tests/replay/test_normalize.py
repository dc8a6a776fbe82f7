"""Normalisers of labels: scales that do not depend on the task, and a running range that remembers."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaze_torchrl.functional import residual
from gaze_torchrl.replay import RankNormalize, ResidualNormalize, RunningQuantileNormalize


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), scale=st.sampled_from([1e-3, 1.0, 1e4]), ties=st.booleans())
def test_ranks_do_not_depend_on_the_scale(seed, n, scale, ties):
    generator = torch.Generator().manual_seed(seed)
    label, known = torch.randn(n, generator=generator), torch.rand(n, generator=generator) < 0.7
    label = label.round() if ties else label
    rank = RankNormalize()(label, known)
    torch.testing.assert_close(RankNormalize()(scale * label, known), rank)
    assert ((rank >= 0) & (rank <= 1)).all()
    if known.any():
        assert rank[known].mean().item() == pytest.approx(0.5, abs=1e-5)


def test_running_range_by_hand():
    normalize = RunningQuantileNormalize(decay=0.75, low=0.1, high=0.9)
    low = high = None
    for shift, spread in ((0.0, 10.0), (50.0, 20.0), (-3.0, 5.0)):
        label, known = shift + spread * torch.rand(200, dtype=torch.float64), torch.rand(200) < 0.5
        now = torch.quantile(label[known], torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
        low, high = now if low is None else (0.75 * old + 0.25 * new for old, new in zip((low, high), now, strict=True))
        torch.testing.assert_close(normalize(label, known), (label - low) / (high - low), rtol=1e-4, atol=1e-4)


def test_small_ranges_are_not_blown_up():
    label = torch.cat([torch.zeros(99), torch.ones(1)])  # both quantiles are 0
    assert torch.equal(RunningQuantileNormalize()(label, torch.ones(100, dtype=torch.bool)), label)
    assert torch.equal(RunningQuantileNormalize(min_range=0.5)(label, torch.ones(100, dtype=torch.bool)), 2 * label)


def test_unknown_labels_do_not_move_the_range():
    label, known = torch.tensor([0.0, 10.0, 1e6]), torch.tensor([True, True, False])
    normalize = RunningQuantileNormalize(low=0.0, high=1.0)
    nothing = torch.zeros(3, dtype=torch.bool)
    assert torch.equal(normalize(label, nothing), label)
    assert normalize(label, known)[:2].tolist() == [0, 1]
    assert normalize(label + 5, nothing)[:2].tolist() == [0.5, 1.5]


def test_state_goes_on_exactly():
    first, fresh = RunningQuantileNormalize(), RunningQuantileNormalize()
    label, known = 30 * torch.randn(2, 50), torch.ones(50, dtype=torch.bool)
    first(label[0], known)
    fresh.load_state_dict(first.state_dict())
    twins = [fresh, copy.deepcopy(first), pickle.loads(pickle.dumps(first))]
    expected = first(label[1], known)
    assert all(torch.equal(twin(label[1], known), expected) for twin in twins)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decay": 1.0}, r"normalize\.decay must lie in \[0, 1\), got 1\.0"),
        ({"low": 0.9, "high": 0.1}, r"low=0\.9, high=0\.1"),
        ({"min_range": 0.0}, r"normalize\.min_range must be positive, got 0\.0"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        RunningQuantileNormalize(**options)


def test_residuals_are_those_of_the_known_labels():
    label, proprio, known = torch.randn(40), torch.randn(40, 3), torch.rand(40) < 0.7
    assert torch.equal(ResidualNormalize(3, 0.1)(label, known, proprio), residual(label, proprio, known, 0.1))
    with pytest.raises(ValueError, match=r"normalize=residual needs proprioception.* set normalize=none"):
        ResidualNormalize(0)
    with pytest.raises(ValueError, match=r"normalize\.ridge must be positive, got -1"):
        ResidualNormalize(3, ridge=-1)
