"""What can be asked of a gaze besides return: to be narrow, to be steady, to be certain."""

import torch
from torch import Tensor

__all__ = ["gaze_drift", "gaze_spread", "map_entropy"]


def gaze_spread(covariance: Tensor) -> Tensor:
    r"""How wide the foveae are: the mean over them of the expected squared distance from their centre.

    .. math:: \frac{1}{K} \sum_k \mathrm{tr}\, \Sigma_k

    Args:
        covariance: of K Gaussians, in squared map units, [*, K, 2, 2].

    Returns:
        Spread in squared map units, [*].

    >>> gaze_spread(torch.stack([torch.eye(2), 3 * torch.eye(2)]))
    tensor(4.)
    """
    return covariance.diagonal(dim1=-2, dim2=-1).sum(-1).mean(-1)


def gaze_drift(mean: Tensor, next_mean: Tensor) -> Tensor:
    r"""How far the foveae move in a step: the mean over them of the squared distance.

    .. math:: \frac{1}{K} \sum_k \|\mu_k' - \mu_k\|^2

    Args:
        mean: centres (x, y) of K Gaussians, in map units, [*, K, 2].
        next_mean: theirs one step later, [*, K, 2].

    Returns:
        Drift in squared map units, [*].

    Raises:
        ValueError: if the shapes differ.

    >>> gaze_drift(torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    tensor(1.)
    """
    if mean.shape != next_mean.shape:
        raise ValueError(
            f"gaze_drift expects two means of one shape [*, K, 2], got {list(mean.shape)} and {list(next_mean.shape)}"
        )
    return (next_mean - mean).square().sum(-1).mean(-1)


def map_entropy(attention: Tensor) -> Tensor:
    r"""Entropy of a map, taken as a distribution over its cells.

    .. math:: -\sum_c \pi_c \log \pi_c, \qquad \pi_c = \frac{a_c}{\sum_i a_i}

    Args:
        attention: non-negative maps a, [*, height, width].

    Returns:
        Entropy in nats, from 0 (one cell) to log(height * width) (all alike), [*]; 0 where the map is zero.

    >>> map_entropy(torch.ones(2, 2)).exp()
    tensor(4.)
    """
    attention = attention.flatten(-2)
    total = attention.sum(-1, keepdim=True)
    share = attention / torch.where(total > 0, total, 1)
    # Far from a narrow fovea the map is zero, where the gradient of the logarithm is infinite.
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1)
