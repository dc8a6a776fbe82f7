"""What is left of values once what other numbers explain of them is taken away."""

import torch
from torch import Tensor

__all__ = ["residual"]


def residual(value: Tensor, by: Tensor, mask: Tensor, ridge: float = 1e-3) -> Tensor:
    r"""Values less the sum of parabolas, one of each explaining number, that fits them best.

    .. math::
        \tilde{y} = y - (X - \bar{X})\, w, \qquad X = [z,\ z^2], \qquad
        w = \arg\min_w \mathrm{mean}\bigl(y - \bar{y} - (X - \bar{X})\, w\bigr)^2
            + \Bigl(\rho + \frac{2P}{n}\Bigr) |w|^2

    where z are the explaining numbers, each by its own mean and deviation; means are over the n masked values, which
    keep theirs. Squares, since a distance to what lies anywhere has no slope but a bowl. A number that never differs
    explains nothing. Many numbers explain a part of any few values by chance; the second penalty makes that less.

    Args:
        value: y, [N], floating point, finite where masked.
        by: the numbers that explain them, [N, P], floating point, finite where masked.
        mask: True for values that count, [N], bool; where it is False, the result says what the fit leaves there.
        ridge: rho, > 0.

    Returns:
        [N], of the dtype of ``value``; the values as they are where none counts.

    Raises:
        ValueError: if the shapes do not belong together, ``mask`` is not bool or ``ridge`` is not positive.

    Reference:
        Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, Technometrics 1970.

    >>> place, known = torch.linspace(-2, 2, 1000), torch.ones(1000, dtype=torch.bool)
    >>> bowl = 5 - place**2
    >>> bowl.std().round(decimals=1), residual(bowl, place[:, None], known).std().round(decimals=1)
    (tensor(1.2000), tensor(0.))
    """
    if value.ndim != 1 or by.ndim != 2 or len(by) != len(value) or mask.shape != value.shape:
        raise ValueError(
            f"residual expects value [N], by [N, P] and mask [N], got {list(value.shape)}, {list(by.shape)} and "
            f"{list(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, got {mask.dtype}; convert it with .bool()")
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    dtype, rows = torch.promote_types(value.dtype, torch.float32), mask[:, None]
    count = mask.sum().clamp_min(1)
    weight = mask.to(dtype) / count
    y, z = value.to(dtype).where(mask, 0), by.to(dtype)
    z = z - weight @ z.where(rows, 0)
    deviation = (weight @ z.where(rows, 0).square()).sqrt()
    z = z / deviation.where(deviation > 0, 1)
    x = torch.cat([z, z.square()], 1)
    x = x - weight @ x.where(rows, 0)
    used = x.where(rows, 0)
    weighted = weight[:, None] * used
    penalty = (ridge + x.shape[1] / count) * torch.eye(x.shape[1], dtype=dtype, device=x.device)
    # solve_ex, for solve would wait for the device to tell whether it could: with a penalty it can.
    fit, _ = torch.linalg.solve_ex(weighted.T @ used + penalty, weighted.T @ (y - weight @ y))
    return (value - x @ fit).to(value.dtype)
