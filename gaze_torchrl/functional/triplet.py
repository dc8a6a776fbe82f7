"""Triplet losses on cosine similarities."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["cosine_triplet_loss", "soft_margin_triplet_loss"]


def cosine_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.3, eps: float = 1e-8
) -> Tensor:
    r"""Hinge loss that asks the anchor to be closer to the positive than to the negative, by a margin.

    .. math:: \ell = \max\bigl(0, \; \cos(a, n) - \cos(a, p) + \mathrm{margin}\bigr)

    Not reduced, so that the caller can mask and weigh triplets.

    Args:
        anchor: embeddings a, [*, D].
        positive: embeddings p to be pulled towards the anchor, [*, D].
        negative: embeddings n to be pushed from the anchor, [*, D].
        margin: wanted gap between the two similarities, in [0, 2].
        eps: smallest length a vector is divided by; a zero vector has similarity 0 to everything.

    Returns:
        Losses in [0, 2 + margin], [*].

    Raises:
        ValueError: if the shapes differ or ``margin`` is out of range.

    Reference:
        Schroff et al., FaceNet: A Unified Embedding for Face Recognition and Clustering, 2015 (on distances).

    >>> import torch
    >>> anchor, positive = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    >>> cosine_triplet_loss(anchor, positive, negative=torch.tensor([3.0, 4.0]))
    tensor(0.9000)
    """
    if not 0 <= margin <= 2:
        raise ValueError(f"margin must lie in [0, 2], the range of the cosine distance, got {margin}")
    return (_excess(anchor, positive, negative, eps) + margin).relu()


def soft_margin_triplet_loss(
    anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float = 0.1, eps: float = 1e-8
) -> Tensor:
    r"""Softplus loss that asks the anchor to be closer to the positive than to the negative, the more the better.

    .. math:: \ell = \log\Bigl(1 + \exp\frac{\cos(a, n) - \cos(a, p)}{\tau}\Bigr)

    It is InfoNCE with one negative. Unlike the hinge it never stops pulling, only less and less. Not reduced.

    Args:
        anchor: embeddings a, [*, D].
        positive: embeddings p to be pulled towards the anchor, [*, D].
        negative: embeddings n to be pushed from the anchor, [*, D].
        temperature: tau, positive; the gap beyond which a triplet hardly counts is a few of it.
        eps: smallest length a vector is divided by; a zero vector has similarity 0 to everything.

    Returns:
        Losses, positive, log 2 where both are equally close, [*].

    Raises:
        ValueError: if the shapes differ or ``temperature`` is not positive.

    Reference:
        Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, 2017 (on distances).

    >>> import torch
    >>> anchor, positive = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    >>> soft_margin_triplet_loss(anchor, positive, negative=torch.tensor([0.0, 4.0]))
    tensor(0.6931)
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return F.softplus(_excess(anchor, positive, negative, eps) / temperature)


def _excess(anchor: Tensor, positive: Tensor, negative: Tensor, eps: float) -> Tensor:
    if anchor.ndim < 1 or not anchor.shape == positive.shape == negative.shape:
        raise ValueError(
            "A triplet loss expects anchor, positive and negative of one shape [*, D], "
            f"got {list(anchor.shape)}, {list(positive.shape)} and {list(negative.shape)}"
        )
    to_negative = F.cosine_similarity(anchor, negative, dim=-1, eps=eps)
    return to_negative - F.cosine_similarity(anchor, positive, dim=-1, eps=eps)
