r"""Gaussian attention maps.

A map of ``height`` rows and ``width`` columns covers :math:`[-1, 1] \times [-1, 1]`; x points right and y
down. The centre of the cell in row i and column j is :math:`x = (2j + 1) / width - 1` and
:math:`y = (2i + 1) / height - 1`. Every 2-vector is ordered (x, y).
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["axis_centers", "cell_centers", "covariance_from", "gaussian_map"]


def axis_centers(size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Centres of ``size`` equal cells that together cover [-1, 1].

    Args:
        size: number of cells, at least 1.
        device: device of the result.
        dtype: floating-point type of the result; torch's default if None.

    Returns:
        Increasing coordinates, [size].

    Raises:
        ValueError: if ``size`` is less than 1.

    >>> axis_centers(4)
    tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    if size < 1:
        raise ValueError(f"a map needs at least one row and one column, got a side of {size}")
    dtype = dtype or torch.get_default_dtype()
    return (2 * torch.arange(size, device=device, dtype=dtype) + 1) / size - 1


def cell_centers(
    height: int, width: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """Coordinates (x, y) of the centre of every cell of a map, row by row.

    Args:
        height: number of rows, at least 1.
        width: number of columns, at least 1.
        device: device of the result.
        dtype: floating-point type of the result; torch's default if None.

    Returns:
        Coordinates in (-1, 1), [height * width, 2].

    Raises:
        ValueError: if a side is less than 1.

    >>> cell_centers(1, 2)
    tensor([[-0.5000,  0.0000],
            [ 0.5000,  0.0000]])
    """
    y = axis_centers(height, device=device, dtype=dtype)
    x = axis_centers(width, device=device, dtype=dtype)
    return torch.cartesian_prod(y, x).flip(-1)


def gaussian_map(
    mean: Tensor,
    covariance: Tensor,
    height: int,
    width: int,
    *,
    normalize: Literal["peak", "sum"] = "peak",
    periphery: float = 0.0,
) -> Tensor:
    r"""Evaluate 2-D Gaussians at the cell centres of a map.

    With :math:`g(p) = \exp(-\tfrac{1}{2} (p - \mu)^\top \Sigma^{-1} (p - \mu))` at the cell centre p and
    with periphery :math:`\rho`, the map is :math:`\rho + (1 - \rho) g` for "peak" and
    :math:`g / \sum g` for "sum".

    Args:
        mean: centre (x, y) of each Gaussian, [*, 2].
        covariance: symmetric positive definite matrices, [*, 2, 2]. Definiteness is not checked, since that
            would wait for the device; what is too thin for its dtype, such as a fovea along a diagonal, is widened.
        height: rows of the map, at least 1.
        width: columns of the map, at least 1.
        normalize: "peak" for a map that is 1 at the mean, "sum" for a map whose cells sum to one.
        periphery: what is left of a cell far from the mean, in [0, 1); only with "peak".

    Returns:
        Maps with values in [periphery, 1], [*, height, width]; at least float32.

    Raises:
        ValueError: if a shape, ``normalize`` or ``periphery`` is not as above.

    >>> gaussian_map(torch.zeros(2), 0.5 * torch.eye(2), 3, 3)
    tensor([[0.4111, 0.6412, 0.4111],
            [0.6412, 1.0000, 0.6412],
            [0.4111, 0.6412, 0.4111]])
    """
    if mean.ndim < 1 or mean.shape[-1] != 2 or covariance.shape != (*mean.shape, 2):
        raise ValueError(
            "gaussian_map expects a mean [*, 2] and a covariance [*, 2, 2] with the same leading dimensions, "
            f"got {list(mean.shape)} and {list(covariance.shape)}"
        )
    if normalize not in ("peak", "sum"):
        raise ValueError(f'normalize must be "peak" or "sum", got {normalize!r}')
    if not 0 <= periphery < 1:
        raise ValueError(f"periphery must lie in [0, 1), got {periphery}")
    if normalize == "sum" and periphery > 0:
        raise ValueError(
            f'periphery must be 0 with normalize="sum" (a floor would break the sum of one), '
            f'got {periphery}; use normalize="peak"'
        )
    # p(x, y) = p(x) p(y | x): the exponent is minus two squares, so never positive. Its expansion in the
    # monomials [x², xy, y², x, y, 1] (one matmul) is no faster, loses two to four more digits where a narrow
    # Gaussian lies far from the origin, and would run in half precision under autocast.
    dtype = torch.promote_types(mean.dtype, torch.float32)
    dx = axis_centers(width, device=mean.device, dtype=dtype) - mean[..., :1]
    dy = axis_centers(height, device=mean.device, dtype=dtype) - mean[..., 1:]
    cov_xx, cov_xy, cov_yy = (covariance[..., i, j, None].to(dtype) for i, j in ((0, 0), (0, 1), (1, 1)))
    slope = cov_xy / cov_xx
    # The difference has this rounding error, and may come out as zero or less.
    variance = torch.maximum(cov_yy - slope * cov_xy, torch.finfo(dtype).eps * cov_yy)
    scale = (2 * variance).rsqrt()
    marginal = -0.5 * dx.square() / cov_xx
    residual = (scale * dy).unsqueeze(-1) - (scale * slope * dx).unsqueeze(-2)
    exponent = marginal.unsqueeze(-2) - residual.square()
    if normalize == "sum":
        return exponent.flatten(-2).softmax(-1).unflatten(-1, (height, width))
    return periphery + (1 - periphery) * exponent.exp() if periphery else exponent.exp()


def covariance_from(sigma: Tensor, rho: Tensor) -> Tensor:
    r"""Covariance matrices from standard deviations and a correlation.

    .. math::
        \Sigma = \begin{pmatrix} \sigma_x^2 & \rho \sigma_x \sigma_y \\ \rho \sigma_x \sigma_y & \sigma_y^2
        \end{pmatrix}

    Args:
        sigma: standard deviations (x, y), positive, [*, 2].
        rho: correlations in (-1, 1), [*].

    Returns:
        Symmetric positive definite matrices, [*, 2, 2].

    Raises:
        ValueError: if a shape is not as above.

    >>> covariance_from(torch.tensor([2.0, 1.0]), torch.tensor(0.5))
    tensor([[4., 1.],
            [1., 1.]])
    """
    if sigma.ndim < 1 or sigma.shape[-1] != 2 or rho.shape != sigma.shape[:-1]:
        raise ValueError(
            "covariance_from expects sigma [*, 2] and rho [*] with the same leading dimensions, "
            f"got {list(sigma.shape)} and {list(rho.shape)}"
        )
    covariance = sigma.unsqueeze(-1) * sigma.unsqueeze(-2)
    correlation = torch.stack([torch.ones_like(rho), rho, rho, torch.ones_like(rho)], -1).unflatten(-1, (2, 2))
    return covariance * correlation
