"""InfoNCE: which of the keys belongs to the query."""

from torch import Tensor

__all__ = ["info_nce"]


def info_nce(similarity: Tensor) -> Tensor:
    r"""Cross-entropy of finding each query's own key among all keys.

    .. math:: \ell_i = -\log \frac{\exp s_{ii}}{\sum_j \exp s_{ij}}

    Not reduced. A temperature divides the similarities beforehand.

    Args:
        similarity: of query i to key j, [*, N, N]; the matching pairs are on the diagonal.

    Returns:
        Losses >= 0, [*, N]; log N where all similarities are equal.

    Raises:
        ValueError: if the last two dimensions differ.

    Reference:
        van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018.

    >>> import torch
    >>> info_nce(torch.zeros(2, 2))  # log 2
    tensor([0.6931, 0.6931])
    """
    if similarity.ndim < 2 or similarity.shape[-1] != similarity.shape[-2]:
        raise ValueError(f"info_nce expects similarities [*, N, N], got {list(similarity.shape)}")
    return similarity.logsumexp(-1) - similarity.diagonal(dim1=-2, dim2=-1)
