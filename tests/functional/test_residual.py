"""Residuals against ridge regression written down, and what they must not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gaze_torchrl.functional import residual


def numbers(seed: int, n: int, p: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(n, **draw), 3 + 2 * torch.randn(n, p, **draw), torch.rand(n, **draw) < 0.7


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(2, 30), p=st.integers(1, 4), ridge=st.sampled_from([1e-3, 1.0]))
def test_is_ridge_regression(seed, n, p, ridge) -> None:
    """As least squares over rows that the penalty adds, in NumPy, value by value."""
    value, by, mask = numbers(seed, n, p)
    assume(mask.sum() >= 2)
    y, z, used = value.numpy(), by.numpy(), mask.numpy()
    z = (z - z[used].mean(0)) / z[used].std(0)
    x = np.concatenate([z, z**2], 1)
    x = x - x[used].mean(0)
    count = used.sum()
    rows = np.concatenate([x[used] / np.sqrt(count), np.sqrt(ridge + 2 * p / count) * np.eye(2 * p)])
    aims = np.concatenate([(y[used] - y[used].mean()) / np.sqrt(count), np.zeros(2 * p)])
    weights = np.linalg.lstsq(rows, aims, rcond=None)[0]
    expected = [y[i] - sum(x[i, j] * weights[j] for j in range(2 * p)) for i in range(n)]
    np.testing.assert_allclose(residual(value, by, mask, ridge).numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3])
def test_a_bowl_is_taken_away_and_the_rest_stays(scale) -> None:
    rest, by, mask = numbers(0, 20_000, 2)
    bowl = scale * (5 - (by - torch.tensor([1.0, -2.0])).square().sum(1))
    left = residual(rest + bowl, by, mask)
    torch.testing.assert_close(left[mask].mean(), (rest + bowl)[mask].mean())
    missing = left - left[mask].mean() - (rest - rest[mask].mean())
    assert missing[mask].std() < 0.02 + 0.01 * bowl[mask].std()


@pytest.mark.parametrize(("n", "p"), [(10, 2), (10, 25), (50, 25)])
def test_few_values_keep_a_part_of_what_fits_by_chance(n, p) -> None:
    value, by, _ = numbers(0, n, p)
    assert residual(value, by, torch.ones(n, dtype=torch.bool)).std() > 0.3 * value.std()


def test_units_of_what_explains_do_not_matter() -> None:
    value, by, mask = numbers(0, 100, 3)
    torch.testing.assert_close(residual(value, 1e4 * by - 7, mask), residual(value, by, mask))


def test_a_float_of_a_thousand_values_is_close_to_a_double() -> None:
    value, by, mask = numbers(0, 4096, 25)
    torch.testing.assert_close(
        residual(value.float(), by.float(), mask).double(), residual(value, by, mask), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("by", [torch.full((6, 2), 4.0), torch.zeros(6, 2)])
def test_what_never_differs_explains_nothing(by) -> None:
    value = torch.tensor([1.0, 5.0, 2.0, 2.0, 9.0, 0.0])
    torch.testing.assert_close(residual(value, by, torch.ones(6, dtype=torch.bool)), value)


def test_rows_that_do_not_count_may_be_anything() -> None:
    value, by, mask = numbers(0, 50, 2)
    expected = residual(value, by, mask)[mask]
    for junk in (torch.nan, torch.inf, 1e30):
        torch.testing.assert_close(residual(value.where(mask, junk), by, mask)[mask], expected)
        torch.testing.assert_close(residual(value, by.where(mask[:, None], junk), mask)[mask], expected)


@pytest.mark.parametrize("count", [0, 1])
def test_where_none_or_one_counts_all_stay(count) -> None:
    value, by, _ = numbers(0, 50, 2)
    mask = torch.arange(50) < count
    torch.testing.assert_close(residual(value, 1e11 * by, mask), value)


def test_half_precision_is_computed_in_single() -> None:
    value, by, mask = numbers(0, 50, 2)
    found = residual(value.half(), by.half(), mask)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), residual(value, by, mask), rtol=0.01, atol=0.01)


def test_errors() -> None:
    value, by, mask = numbers(0, 5, 2)
    for wrong in ((value, by.T, mask), (value, by, mask[:, None]), (value, by, mask[0]), (value[:4], by, mask)):
        with pytest.raises(ValueError, match=r"residual expects value \[N\], by \[N, P\] and mask \[N\], got \["):
            residual(*wrong)
    with pytest.raises(ValueError, match="mask must be a bool tensor"):
        residual(value, by, mask.double())
    with pytest.raises(ValueError, match="ridge must be positive, got 0"):
        residual(value, by, mask, 0)
