"""Exact nearest neighbours, one block of the pool at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gaze_torchrl.functional.knn_faiss import search

__all__ = ["knn", "neighbor_agreement"]


@torch.no_grad()
def knn(
    query: Tensor,
    pool: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    block: int = 8192,
    backend: Literal["torch", "faiss"] = "torch",
) -> tuple[Tensor, Tensor]:
    r"""Find the k most similar vectors of a pool for each query.

    Exact: a matrix product and a top-k per block, merged into the best so far, in O(Q · N · D) time and
    O(Q · block) memory. No gradient flows. A query with fewer than k admissible neighbours is padded with
    similarity -inf and index -1. Not for ``torch.autocast``, whose products are not exact.

    Args:
        query: [Q, D], floating point.
        pool: [N, D], on the device of ``query``; a half-precision pool is compared in float32.
        k: number of neighbours, at least 1; may exceed N.
        mask: True where the pool entry may be a neighbour of the query, [Q, N], bool; all may if None.
        metric: "cosine", or "euclidean" for minus the squared distance.
        block: pool entries compared at a time by the torch backend, at least 1.
        backend: ``"torch"``, or ``"faiss"`` for a flat index of FAISS, which is exact too, up to the order of ties;
            it compares in float32 on the CPU, wherever the data lies.

    Returns:
        Similarities, largest first, [Q, k], at least float32, and indices into the pool, [Q, k], int64.

    Raises:
        ValueError: if a shape, ``k``, ``mask``, ``metric``, ``block`` or ``backend`` is not as above.
        ImportError: if FAISS is asked for and not installed.

    Reference:
        Douze et al., The Faiss Library, arXiv 2401.08281 (the backend "faiss").

    >>> pool = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    >>> knn(torch.tensor([[2.0, 0.0]]), pool, k=2)
    (tensor([[1.0000, 0.6000]]), tensor([[0, 2]]))
    """
    if query.ndim != 2 or pool.ndim != 2 or query.shape[1] != pool.shape[1]:
        raise ValueError(f"knn expects query [Q, D] and pool [N, D], got {list(query.shape)}, {list(pool.shape)}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (len(query), len(pool))):
        raise ValueError(
            f"mask must be bool [{len(query)}, {len(pool)}] (queries by pool), got {mask.dtype} {list(mask.shape)}"
        )
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f'metric must be "cosine" or "euclidean", got {metric!r}')
    if backend not in ("torch", "faiss"):
        raise ValueError(f'backend must be "torch" or "faiss", got {backend!r}')
    for name, number in (("k", k), ("block", block)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")

    query = query.to(torch.promote_types(query.dtype, torch.float32))
    # Distances do not change under a shift, and near the origin |q|² - 2qp + |p|² loses the fewest digits.
    # The queries set the origin, since masked pool entries may hold anything.
    origin = query.mean(0)
    query = F.normalize(query, dim=-1) if metric == "cosine" else query - origin
    if backend == "faiss":
        pool = pool.to(query.dtype)
        pool = F.normalize(pool, dim=-1) if metric == "cosine" else pool - origin
        return search(query, pool, k, mask, metric)
    best = query.new_full((len(query), k), -torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    for start in range(0, len(pool), block):
        part = pool[start : start + block].to(query.dtype)
        if metric == "cosine":
            similarity = query @ F.normalize(part, dim=-1).T
        else:
            part = part - origin
            similarity = torch.addmm(-part.square().sum(-1), query, part.T, alpha=2)
        if mask is not None:
            similarity = torch.where(mask[:, start : start + block], similarity, -torch.inf)
        part_best, part_index = similarity.topk(min(k, len(part)), dim=-1)
        best, order = torch.cat([best, part_best], -1).topk(k, dim=-1)
        index = torch.cat([index, part_index + start], -1).gather(-1, order)
    if metric == "euclidean":
        best = (best - query.square().sum(-1, keepdim=True)).clamp_max(0)
    return best, index.masked_fill(best == -torch.inf, -1)


def neighbor_agreement(keys_a: Tensor, keys_b: Tensor, k: int) -> Tensor:
    """Share of each vector's k nearest neighbours (cosine) that are the same in two descriptions of one set.

    Args:
        keys_a: [N, D], floating point.
        keys_b: [N, E], floating point, the same N things in the same order.
        k: number of neighbours, itself not counted, from 1 to N - 1.

    Returns:
        Mean over the N vectors, scalar in [0, 1]; chance is k / (N - 1).

    Raises:
        ValueError: if the numbers of vectors differ or ``k`` is out of range.

    >>> keys = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> neighbor_agreement(keys, 2 * keys.flip(-1), k=1)
    tensor(1.)
    """
    if len(keys_a) != len(keys_b) or not 1 <= k < len(keys_a):
        raise ValueError(
            f"neighbor_agreement expects two sets of equal size and k below it, got {len(keys_a)}, {len(keys_b)} "
            f"and k={k}"
        )
    others = ~torch.eye(len(keys_a), dtype=torch.bool, device=keys_a.device)
    (similarity, a), (_, b) = (knn(keys, keys, k, mask=others) for keys in (keys_a, keys_b))
    return (a[:, :, None] == b[:, None, :]).any(-1).to(similarity.dtype).mean()
