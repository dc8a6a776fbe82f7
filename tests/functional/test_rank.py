"""Mid-ranks against scipy's and counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from gaze_torchrl.functional import mid_rank


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 30), share=st.sampled_from([0.0, 0.3, 1.0]), ties=st.booleans())
def test_counts_what_lies_below(seed, n, share, ties) -> None:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(n, generator=generator, dtype=torch.float64)
    value = value.round() if ties else value
    mask = torch.rand(n, generator=generator) < share
    usable = value[mask].tolist()
    expected = [sum((u < v) + 0.5 * (u == v) for u in usable) / max(len(usable), 1) for v in value.tolist()]
    assert mid_rank(value, mask).tolist() == pytest.approx(expected, abs=1e-12)


def test_is_scipys_average_rank() -> None:
    value = torch.randint(10, (50,)).double()
    expected = (torch.from_numpy(rankdata(value.numpy(), "average")) - 0.5) / 50
    torch.testing.assert_close(mid_rank(value, torch.ones(50, dtype=torch.bool)), expected)


def test_values_that_do_not_count_may_be_infinite() -> None:
    value, mask = torch.tensor([1.0, torch.inf, 2.0, -torch.inf]), torch.tensor([True, False, True, False])
    assert mid_rank(value, mask).tolist() == [0.25, 1.0, 0.75, 0.0]


def test_equal_values_share_the_middle() -> None:
    assert mid_rank(torch.full((7,), 3.0), torch.ones(7, dtype=torch.bool)).tolist() == [0.5] * 7


def test_errors() -> None:
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(4)):
        with pytest.raises(ValueError, match=r"values \[\*, T\] and a bool mask of that shape, got \[4\]"):
            mid_rank(torch.zeros(4), mask)
