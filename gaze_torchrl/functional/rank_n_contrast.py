"""Rank-N-Contrast: InfoNCE whose positives and negatives are ranked by a continuous label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["rank_n_contrast"]


def rank_n_contrast(
    embeddings: Tensor, labels: Tensor, valid: Tensor | None = None, temperature: float = 0.1
) -> Tensor:
    r"""Contrast every pair with the pairs whose labels differ at least as much, so that embeddings order like labels.

    .. math:: \ell_i = -\frac{1}{N - 1} \sum_{j \ne i} \log
              \frac{\exp(\cos(z_i, z_j) / \tau)}
                   {\sum_{k \ne i, \; |y_i - y_k| \ge |y_i - y_j|} \exp(\cos(z_i, z_k) / \tau)}

    Each other member j is once the positive of i; its negatives are those farther from i in label. Only the order of
    the label distances matters; those that differ by rounding alone, such as 0.2 - 0.1 and 0.3 - 0.2, count as equal.
    Denominators are running sums over the members sorted by label distance: time O(N² log N) and memory O(N²), not the
    O(N³) of the definition.

    Args:
        embeddings: z, [*, N, D].
        labels: y, [*, N], finite where valid.
        valid: members that count, [*, N], bool; the others may hold anything; all count if None.
        temperature: tau, positive.

    Returns:
        Loss of every member as the anchor, non-negative, zero where not valid or where no other member is, [*, N].

    Raises:
        ValueError: if a shape is not as above or ``temperature`` is not positive.

    Reference:
        Zha et al., Rank-N-Contrast: Learning Continuous Representations for Regression, NeurIPS 2023 (similarity there:
        minus the Euclidean distance).

    >>> import torch
    >>> embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> rank_n_contrast(embeddings, torch.tensor([0.0, 1.0, 1.0]), temperature=1.0)  # two ways to be wrong: log 2
    tensor([0.6931, 0.1566, 0.1566])
    """
    if embeddings.ndim < 2 or embeddings.shape[:-1] != labels.shape:
        raise ValueError(
            "rank_n_contrast expects embeddings [*, N, D] and labels [*, N], "
            f"got {list(embeddings.shape)} and {list(labels.shape)}"
        )
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    if valid.shape != labels.shape or valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool {list(labels.shape)}, got {valid.dtype} {list(valid.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    # Select rather than multiply: what is not valid may be infinite or NaN.
    embeddings = F.normalize(torch.where(valid.unsqueeze(-1), embeddings, 0), dim=-1)
    logits = embeddings @ embeddings.mT / temperature
    with torch.no_grad():
        pair = valid.unsqueeze(-1) & valid.unsqueeze(-2)
        pair = pair & ~torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
        distance = (labels.unsqueeze(-1) - labels.unsqueeze(-2)).abs()
        # From the farthest label to the nearest; what is no pair comes last, where no denominator reaches.
        rank = torch.where(pair, -distance, torch.inf)
        ordered, order = rank.sort(-1)
        # Equal distances share one denominator, the sum up to the last of them; the rounding of
        # the labels and of their differences stays below the slack.
        size = labels.abs()
        slack = 4 * torch.finfo(rank.dtype).eps * (size.unsqueeze(-1) + size.unsqueeze(-2))
        last = torch.searchsorted(ordered, torch.where(pair, rank + slack, rank), right=True) - 1
    denominator = logits.gather(-1, order).logcumsumexp(-1).gather(-1, last)
    loss = torch.where(pair, denominator - logits, 0).sum(-1)
    return loss / pair.sum(-1).clamp_min(1)
