import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaze_torchrl.functional import axis_centers, cell_centers, covariance_from, gaussian_map

F64 = torch.float64


def random_gaussians(*batch: int, max_rho: float = 0.99) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.rand(*batch, 2, dtype=F64) * 3 - 1.5
    sigma = torch.exp(torch.empty(*batch, 2, dtype=F64).uniform_(math.log(0.03), math.log(2.0)))
    rho = torch.empty(batch, dtype=F64).uniform_(-max_rho, max_rho)
    return mean, covariance_from(sigma, rho)


def test_cell_centers_follow_the_convention() -> None:
    height, width = 3, 5
    centers = cell_centers(height, width, dtype=F64).unflatten(0, (height, width))
    for i in range(height):
        for j in range(width):
            expected = [(2 * j + 1) / width - 1, (2 * i + 1) / height - 1]
            torch.testing.assert_close(centers[i, j], torch.tensor(expected, dtype=F64), rtol=0, atol=1e-15)


def test_axis_centers_are_symmetric_and_inside() -> None:
    for size in (1, 2, 7, 128):
        centers = axis_centers(size, dtype=F64)
        torch.testing.assert_close(centers, -centers.flip(0), rtol=0, atol=1e-15)
        assert centers.abs().max() < 1


def test_map_is_the_density_relative_to_its_peak() -> None:
    mean, covariance = random_gaussians(500)
    normal = torch.distributions.MultivariateNormal(mean, covariance)
    log_ratio = normal.log_prob(cell_centers(7, 5, dtype=F64)[:, None]) - normal.log_prob(mean)
    expected = log_ratio.exp().T.unflatten(-1, (7, 5))
    torch.testing.assert_close(gaussian_map(mean, covariance, 7, 5), expected, rtol=0, atol=1e-10)
    # The same, but relative, so that the far tail counts as much as the peak.
    torch.testing.assert_close(
        gaussian_map(mean, covariance, 7, 5).clamp_min(1e-200),
        expected.clamp_min(1e-200),
        rtol=1e-8,
        atol=0,
    )


@pytest.mark.parametrize(
    ("sigma", "rho", "tolerance"),
    [(0.3, 0.0, 1e-6), (0.05, 0.0, 3e-6), (0.05, 0.99, 3e-5), (0.01, 0.0, 1e-5)],
)
def test_float32_is_exact_for_narrow_gaussians_far_out(sigma: float, rho: float, tolerance: float) -> None:
    mean = torch.rand(2000, 2) * 2 - 1
    covariance = covariance_from(torch.full((2000, 2), sigma), torch.full((2000,), rho))
    expected = gaussian_map(mean.double(), covariance.double(), 24, 24)
    assert (gaussian_map(mean, covariance, 24, 24) - expected).abs().max() < tolerance


def test_peak_is_one_at_the_mean() -> None:
    covariance = random_gaussians(15)[1]
    maps = gaussian_map(cell_centers(3, 5, dtype=F64), covariance, 3, 5)
    torch.testing.assert_close(maps.flatten(-2).diagonal(), torch.ones(15, dtype=F64), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    mean=st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    sigma=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    rho=st.floats(-0.99, 0.99),
    periphery=st.floats(0, 0.99),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_values_stay_in_range(mean, sigma, rho, periphery, height, width) -> None:
    mean, covariance = torch.tensor(mean), covariance_from(torch.tensor(sigma), torch.tensor(rho))
    bare = gaussian_map(mean, covariance, height, width)
    floored = gaussian_map(mean, covariance, height, width, periphery=periphery)
    assert ((bare >= 0) & (bare <= 1)).all()
    assert ((floored >= torch.tensor(periphery)) & (floored <= 1)).all()
    torch.testing.assert_close(floored, periphery + (1 - periphery) * bare)
    total = gaussian_map(mean, covariance, height, width, normalize="sum")
    assert total.sum() == pytest.approx(1, abs=1e-5)


def test_sum_is_the_peak_map_divided_by_its_sum() -> None:
    mean, covariance = random_gaussians(50)
    mean, covariance = mean / 2, covariance + 0.1 * torch.eye(2)
    peak = gaussian_map(mean, covariance, 6, 4)
    expected = peak / peak.sum((-2, -1), keepdim=True)
    torch.testing.assert_close(gaussian_map(mean, covariance, 6, 4, normalize="sum"), expected)


def test_sum_survives_a_gaussian_that_vanishes_at_every_cell() -> None:
    mean, covariance = torch.tensor([0.1, 0.2]), 1e-6 * torch.eye(2)
    assert gaussian_map(mean, covariance, 4, 4).sum() == 0
    summed = gaussian_map(mean, covariance, 4, 4, normalize="sum")
    assert summed.sum() == 1
    assert summed[2, 2] == 1


def test_axes_swap_with_the_map() -> None:
    mean, covariance = random_gaussians(20)
    swapped = gaussian_map(mean.flip(-1), covariance.flip(-1, -2), 7, 5)
    torch.testing.assert_close(gaussian_map(mean, covariance, 5, 7), swapped.mT)


@pytest.mark.parametrize("normalize", ["peak", "sum"])
def test_gaussian_gradient(normalize: str) -> None:
    mean = (torch.rand(3, 2, dtype=F64) - 0.5).requires_grad_()
    sigma = (torch.rand(3, 2, dtype=F64) + 0.4).requires_grad_()
    rho = (torch.rand(3, dtype=F64) - 0.5).requires_grad_()
    periphery = 0.2 if normalize == "peak" else 0.0

    def maps(mean, sigma, rho):
        covariance = covariance_from(sigma, rho)
        return gaussian_map(mean, covariance, 3, 4, normalize=normalize, periphery=periphery)

    assert torch.autograd.gradcheck(maps, (mean, sigma, rho))


def test_half_precision_is_computed_in_float32() -> None:
    mean, covariance = torch.zeros(2, dtype=torch.bfloat16), torch.eye(2, dtype=torch.bfloat16)
    torch.testing.assert_close(gaussian_map(mean, covariance, 9, 9), gaussian_map(torch.zeros(2), torch.eye(2), 9, 9))


def test_covariance_from_standard_deviations() -> None:
    sigma = torch.rand(100, 2, dtype=F64) + 0.01
    rho = torch.rand(100, dtype=F64) * 1.98 - 0.99
    covariance = covariance_from(sigma, rho)
    torch.testing.assert_close(covariance.diagonal(dim1=-2, dim2=-1).sqrt(), sigma)
    torch.testing.assert_close(covariance[..., 0, 1] / sigma.prod(-1), rho)
    assert torch.equal(covariance, covariance.mT)
    assert (torch.linalg.eigvalsh(covariance) > 0).all()


def test_errors() -> None:
    mean, covariance = torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2)
    with pytest.raises(ValueError, match=r"mean \[\*, 2\].*got \[4, 3\] and \[4, 2, 2\]"):
        gaussian_map(torch.zeros(4, 3), covariance, 2, 2)
    with pytest.raises(ValueError, match=r"got \[4, 2\] and \[3, 2, 2\]"):
        gaussian_map(mean, covariance[:3], 2, 2)
    with pytest.raises(ValueError, match='normalize must be "peak" or "sum", got \'max\''):
        gaussian_map(mean, covariance, 2, 2, normalize="max")  # type: ignore[arg-type]
    for periphery in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"periphery must lie in \[0, 1\)"):
            gaussian_map(mean, covariance, 2, 2, periphery=periphery)
    with pytest.raises(ValueError, match="periphery must be 0 with normalize"):
        gaussian_map(mean, covariance, 2, 2, normalize="sum", periphery=0.1)
    with pytest.raises(ValueError, match="at least one row and one column, got a side of 0"):
        gaussian_map(mean, covariance, 0, 2)
    with pytest.raises(ValueError, match=r"sigma \[\*, 2\] and rho \[\*\].*got \[4, 2\] and \[3\]"):
        covariance_from(mean, torch.zeros(3))
