"""Mean and covariance of a softmax over the cells of a map."""

import torch
from torch import Tensor

from gaze_torchrl.functional.gaussian import axis_centers

__all__ = ["map_centroid", "spatial_moments"]


def spatial_moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Match a Gaussian to the softmax of a saliency map.

    With :math:`\pi = \mathrm{softmax}(\mathrm{logits})` over all cells and :math:`p_c` the centre of cell c,

    .. math:: \mu = \sum_c \pi_c p_c, \qquad \Sigma = \sum_c \pi_c (p_c - \mu)(p_c - \mu)^\top.

    A sharp softmax has a covariance near zero: add a floor to the diagonal before inverting it.

    Args:
        logits: saliency of each cell, any real number (-inf excludes a cell), [*, height, width].

    Returns:
        Mean (x, y) in (-1, 1), [*, 2], and symmetric positive semi-definite covariance, [*, 2, 2]; at least
        float32.

    Raises:
        ValueError: if ``logits`` has fewer than two dimensions or a side of the map is empty.

    Reference:
        Levine et al., End-to-End Training of Deep Visuomotor Policies, 2016 (the mean).

    >>> mean, covariance = spatial_moments(torch.zeros(1, 2))
    >>> mean, covariance
    (tensor([0., 0.]),
     tensor([[0.2500, 0.0000],
             [0.0000, 0.0000]]))
    """
    if logits.ndim < 2 or 0 in logits.shape[-2:]:
        raise ValueError(
            f"spatial_moments expects logits [*, height, width] with sides of at least 1, got {list(logits.shape)}"
        )
    # No matmul: autocast would run it in half precision, which is too coarse for positions.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    prob = logits.flatten(-2).softmax(-1, dtype=dtype).unflatten(-1, logits.shape[-2:])
    prob_x, prob_y = prob.sum(-2), prob.sum(-1)
    y, x = (axis_centers(side, device=logits.device, dtype=dtype) for side in logits.shape[-2:])
    mean = torch.stack([(prob_x * x).sum(-1), (prob_y * y).sum(-1)], -1)
    dx, dy = x - mean[..., :1], y - mean[..., 1:]
    cov_xx = (prob_x * dx.square()).sum(-1)
    cov_yy = (prob_y * dy.square()).sum(-1)
    cov_xy = ((prob * dx.unsqueeze(-2)).sum(-1) * dy).sum(-1)
    return mean, torch.stack([cov_xx, cov_xy, cov_xy, cov_yy], -1).unflatten(-1, (2, 2))


def map_centroid(maps: Tensor) -> Tensor:
    r"""Centre of mass of maps: :math:`\sum_c m_c\, p_c / \sum_c m_c`, with :math:`p_c` the centre of cell c.

    Args:
        maps: at least 0, [*, height, width]; a map of zeros has its centroid in the middle.

    Returns:
        (x, y) in (-1, 1), [*, 2].

    >>> map_centroid(torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    tensor([0.2500, 0.5000])
    """
    y, x = (axis_centers(side, device=maps.device, dtype=maps.dtype) for side in maps.shape[-2:])
    total = maps.sum((-2, -1)).clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.stack([(maps.sum(-2) * x).sum(-1) / total, (maps.sum(-1) * y).sum(-1) / total], -1)
