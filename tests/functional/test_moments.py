import pytest
import torch

from gaze_torchrl.functional import cell_centers, covariance_from, gaussian_map, map_centroid, spatial_moments

F64 = torch.float64


def moments_by_loop(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = logits.shape
    prob = logits.exp() / logits.exp().sum()
    position = [
        [torch.tensor([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1], dtype=F64) for j in range(width)]
        for i in range(height)
    ]
    mean, covariance = torch.zeros(2, dtype=F64), torch.zeros(2, 2, dtype=F64)
    for i in range(height):
        for j in range(width):
            mean += prob[i, j] * position[i][j]
    for i in range(height):
        for j in range(width):
            offset = position[i][j] - mean
            covariance += prob[i, j] * torch.outer(offset, offset)
    return mean, covariance


def test_moments_match_a_loop_over_cells() -> None:
    logits = 3 * torch.randn(20, 4, 6, dtype=F64)
    mean, covariance = spatial_moments(logits)
    for row, expected in enumerate(map(moments_by_loop, logits)):
        torch.testing.assert_close((mean[row], covariance[row]), expected, rtol=0, atol=1e-14)


def test_one_hot_has_the_mean_of_its_cell_and_no_spread() -> None:
    logits = torch.where(torch.eye(15, dtype=torch.bool), 1e4, 0.0).unflatten(-1, (3, 5))
    mean, covariance = spatial_moments(logits)
    assert torch.equal(mean, cell_centers(3, 5))
    assert torch.equal(covariance, torch.zeros(15, 2, 2))


def test_excluded_cells_do_not_count() -> None:
    logits = torch.randn(4, 4, dtype=F64)
    logits[:, 2:] = -torch.inf
    mean, covariance = spatial_moments(logits)
    torch.testing.assert_close((mean, covariance), moments_by_loop(logits))
    assert mean[0] < 0


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_uniform_has_the_variance_of_a_grid(shift: float) -> None:
    height, width = 4, 7
    mean, covariance = spatial_moments(torch.full((height, width), shift, dtype=F64))
    # n equally likely points at distance 2 / n have variance (2 / n)² (n² - 1) / 12.
    variance = [(1 - 1 / side**2) / 3 for side in (width, height)]
    torch.testing.assert_close(mean, torch.zeros(2, dtype=F64), rtol=0, atol=1e-15)
    torch.testing.assert_close(covariance, torch.diag(torch.tensor(variance, dtype=F64)), rtol=0, atol=1e-15)


def test_mean_moves_with_the_pattern_and_spread_stays() -> None:
    pattern = torch.randn(3, 4, dtype=F64)
    logits = torch.full((8, 10), -torch.inf, dtype=F64)
    moved = logits.clone()
    logits[1:4, 2:6] = pattern
    moved[4:7, 5:9] = pattern  # 3 cells down, 3 cells right
    mean, covariance = spatial_moments(logits)
    moved_mean, moved_covariance = spatial_moments(moved)
    step = torch.tensor([3 * 2 / 10, 3 * 2 / 8], dtype=F64)
    torch.testing.assert_close((moved_mean, moved_covariance), (mean + step, covariance))


def test_moments_of_a_gaussian_map_are_its_parameters() -> None:
    mean = torch.tensor([0.2, -0.1], dtype=F64)
    covariance = covariance_from(torch.tensor([0.15, 0.1], dtype=F64), torch.tensor(0.6, dtype=F64))
    logits = gaussian_map(mean, covariance, 64, 64).log()
    torch.testing.assert_close(spatial_moments(logits), (mean, covariance), rtol=1e-6, atol=1e-6)


def test_covariance_is_symmetric_and_positive_in_float32() -> None:
    mean, covariance = spatial_moments(torch.randn(500, 9, 9) * torch.logspace(-3, 3, 500)[:, None, None])
    assert mean.isfinite().all()
    assert torch.equal(covariance, covariance.mT)
    assert torch.linalg.eigvalsh(covariance.double()).min() > -1e-7


def test_float32_keeps_a_small_spread_near_the_border() -> None:
    # E[x²] - E[x]² would leave nothing of a spread of 1e-4 at x near 1.
    logits = torch.full((1, 64), -torch.inf)
    logits[0, -2:] = torch.tensor([-15.0, 0.0])
    covariance = spatial_moments(logits)[1]
    torch.testing.assert_close(covariance.double(), spatial_moments(logits.double())[1], rtol=1e-3, atol=0)


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(5, 12, 12, dtype=torch.bfloat16)
    torch.testing.assert_close(spatial_moments(logits), spatial_moments(logits.float()))


def test_autocast_does_not_coarsen_positions() -> None:
    logits = torch.randn(5, 12, 12)
    expected = spatial_moments(logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(spatial_moments(logits), expected)
        maps = gaussian_map(*expected, 12, 12)
    torch.testing.assert_close(maps, gaussian_map(*expected, 12, 12))


def test_moments_gradient() -> None:
    assert torch.autograd.gradcheck(spatial_moments, torch.randn(2, 3, 4, dtype=F64, requires_grad=True))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"logits \[\*, height, width\].*got \[5\]"):
        spatial_moments(torch.zeros(5))
    with pytest.raises(ValueError, match=r"got \[2, 0, 3\]"):
        spatial_moments(torch.zeros(2, 0, 3))


def test_the_centroid_is_the_mean_of_a_softmax_of_logs() -> None:
    maps = torch.rand(5, 3, 6, 7, dtype=F64)
    torch.testing.assert_close(map_centroid(maps), spatial_moments(maps.log())[0])
    torch.testing.assert_close(map_centroid(7 * maps), map_centroid(maps))


def test_the_centroid_of_nothing_is_the_middle() -> None:
    assert torch.equal(map_centroid(torch.zeros(2, 4, 5)), torch.zeros(2, 2))
