"""The FAISS backend of `knn`: a flat index, and the mask applied to more neighbours than asked for."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

__all__ = ["require_faiss", "search"]


def require_faiss() -> None:
    """Check that FAISS is there.

    Raises:
        ImportError: if it is not installed.
    """
    if importlib.util.find_spec("faiss") is None:
        raise ImportError('backend="faiss" needs FAISS: pip install "gaze_torchrl[faiss]"')


@torch.compiler.disable
def search(query: Tensor, pool: Tensor, k: int, mask: Tensor | None, metric: str) -> tuple[Tensor, Tensor]:
    """Find the k most similar admissible vectors, exactly.

    The mask differs by query, which no index of FAISS takes: more neighbours are retrieved than asked for, and four
    times as many again for the queries whose mask leaves too few, up to the whole pool.

    Args:
        query: [Q, D], of length 1 for the metric "cosine".
        pool: [N, D], the same.
        k, mask, metric: as for `knn`.

    Returns:
        Similarities [Q, k] and indices [Q, k], as `knn`.

    Raises:
        ImportError: if FAISS is not installed.
    """
    require_faiss()
    import faiss

    flat = (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(pool.shape[1])
    flat.add(pool.float().cpu().numpy())
    looking = query.float().cpu()
    best = torch.full((len(query), k), -torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    pending, fetch = torch.arange(len(query)), 2 * k
    while len(pending) and len(pool):
        fetch = min(fetch, len(pool))
        value, found = map(torch.from_numpy, flat.search(looking[pending].numpy(), fetch))
        admissible = found >= 0
        if mask is not None:
            admissible &= mask.cpu()[pending].gather(1, found.clamp_min(0))
        value = (value if metric == "cosine" else -value).masked_fill(~admissible, -torch.inf)
        top, order = value.topk(min(k, fetch), dim=-1)
        best[pending, : top.shape[1]], index[pending, : top.shape[1]] = top, found.gather(1, order)
        pending = pending[admissible.sum(-1) < k] if fetch < len(pool) else pending[:0]
        fetch *= 4
    index.masked_fill_(best == -torch.inf, -1)
    return best.to(query), index.to(query.device)
