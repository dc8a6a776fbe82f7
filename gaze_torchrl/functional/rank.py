"""Ranks: where a value stands among others, whatever their scale."""

import torch
from torch import Tensor

__all__ = ["mid_rank"]


@torch.no_grad()
def mid_rank(value: Tensor, mask: Tensor) -> Tensor:
    r"""Share of the masked values that lie below each value, where ties count half.

    .. math:: r_i = \frac{\#\{j : v_j < v_i\} + \tfrac{1}{2} \#\{j : v_j = v_i\}}{n}, \qquad j \text{ masked}

    Equal values have equal ranks, the mean rank of the masked values is 1/2, and no gradient flows.

    Args:
        value: v, [*, T], floating point, finite where masked.
        mask: True where a value counts, [*, T], bool.

    Returns:
        r, [*, T], in [0, 1], in the dtype of ``value``; 0 where nothing is masked.

    Raises:
        ValueError: if the shapes differ or ``mask`` is not bool.

    Reference:
        Bross, How to Use Ridit Analysis, Biometrics 14(1), 1958.

    >>> mid_rank(torch.tensor([5.0, 1.0, 5.0, 9.0]), torch.tensor([True, True, True, False]))
    tensor([0.6667, 0.1667, 0.6667, 1.0000])
    """
    if mask.dtype != torch.bool or mask.shape != value.shape or not value.ndim:
        raise ValueError(
            f"mid_rank expects values [*, T] and a bool mask of that shape, got {list(value.shape)} and "
            f"{mask.dtype} {list(mask.shape)}"
        )
    count = mask.sum(-1, keepdim=True)
    ordered = value.masked_fill(~mask, torch.inf).sort(-1).values
    # A value that is not masked may be infinite, which must not count the filled places.
    below, not_above = (torch.searchsorted(ordered, value.contiguous(), right=right) for right in (False, True))
    total = torch.minimum(below, count) + torch.minimum(not_above, count)
    return total.to(value.dtype) / (2 * count).clamp_min(1)
