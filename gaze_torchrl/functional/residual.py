"""What is left of values once what other numbers explain of them is taken away."""

import torch
from torch import Tensor

__all__ = ["residual"]


def residual(value: Tensor, by: Tensor, mask: Tensor, ridge: float = 1e-3) -> Tensor:
    r"""Values less the sum of parabolas, one of each explaining number, that fits them best.

    .. math::
        \tilde{y} = y - (X - \bar{X})\, w, \qquad X = [z,\ z^2], \qquad
        w = \arg\min_w \mathrm{mean}\bigl(y - \bar{y} - (X - \bar{X})\, w\bigr)^2 + \rho\, |w|^2

    where z are the explaining numbers, each by its own mean and deviation; means are over the masked values, which
    keep theirs. Squares, since a distance to what lies anywhere has no slope but a bowl. A number that never differs
    explains nothing.

    Args:
        value: y, [N], floating point.
        by: the numbers that explain them, [N, P], floating point.
        mask: True for values that count, [N], bool; where it is False, the result says what the fit leaves there.
        ridge: rho, > 0: with few values or many numbers the fit stays small.

    Returns:
        [N], of the dtype of ``value``; the values as they are where none counts.

    Raises:
        ValueError: if the shapes do not belong together, ``mask`` is not bool or ``ridge`` is not positive.

    Reference:
        Hoerl and Kennard, Ridge Regression: Biased Estimation for Nonorthogonal Problems, Technometrics 1970.

    >>> place = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    >>> residual(5 - place**2, place[:, None], torch.ones(5, dtype=torch.bool)).std().item() < 0.01
    True
    """
    if value.ndim != 1 or by.ndim != 2 or not len(value) == len(by) == len(mask):
        raise ValueError(
            f"residual expects value [N], by [N, P] and mask [N], got {list(value.shape)}, {list(by.shape)} and "
            f"{list(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, got {mask.dtype}; convert it with .bool()")
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    weight = mask.to(value.dtype) / mask.sum().clamp_min(1)
    y, z = value.where(mask, 0), by.to(value.dtype)
    z = z - weight @ z
    z = z / (weight @ z.square()).sqrt().clamp_min(1e-9)
    x = torch.cat([z, z.square()], 1)
    x = x - weight @ x
    weighted = weight[:, None] * x
    gram = weighted.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    fit = torch.linalg.solve(gram, weighted.T @ (y - weight @ y))
    return value - x @ fit
