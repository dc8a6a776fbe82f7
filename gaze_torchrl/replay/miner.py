"""Miners: from keys and labels to index triples (anchor, positive, negative)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gaze_torchrl.functional import knn

__all__ = ["QuantileMiner", "Triplets"]


class Triplets(NamedTuple):
    """Index triples into the bank; a row counts only where ``valid``.

    Args:
        anchor, positive, negative: [A] int64; 0 where not valid.
        valid: [A] bool.
    """

    anchor: Tensor
    positive: Tensor
    negative: Tensor
    valid: Tensor


class QuantileMiner:
    """Similar looks, different outcomes: classes by quantiles of the label, nearest neighbours across them.

    Steps with a label above the ``high`` quantile of all known labels form one class, those below the ``low``
    quantile the other; what lies between is left out. For an anchor of either class, among its ``neighbors`` most
    similar classed steps, the positive is the nearest of its own class and the negative the nearest of the other.
    An anchor that lacks one of the two gives no triplet, and equal labels give none at all.

    Args:
        anchors: anchors drawn per call (without replacement, from the classed steps), at least 1.
        pool: most classed steps searched per call, a random subset if there are more, at least 1.
        neighbors: nearest neighbours looked at per anchor, at least 1.
        low, high: quantiles of the known labels, 0 < low <= high < 1.
        other_episodes: whether neighbours must come from other episodes than the anchor's: consecutive steps look
            alike for no reason worth learning.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.0], [0.0, 1.0]])
        >>> labels = torch.tensor([1.0, 0.9, 0.0, 0.1])
        >>> miner = QuantileMiner(anchors=4, neighbors=3, low=0.4, high=0.6)
        >>> triplets = miner(keys, labels, torch.ones(4, dtype=torch.bool), torch.arange(4))
        >>> triplets.valid.all().item(), triplets.negative[triplets.anchor == 0].item()
        (True, 2)
    """

    def __init__(
        self,
        anchors: int = 512,
        pool: int = 2048,
        neighbors: int = 32,
        low: float = 0.3,
        high: float = 0.7,
        other_episodes: bool = True,
    ) -> None:
        for name, value in {"anchors": anchors, "pool": pool, "neighbors": neighbors}.items():
            if value < 1:
                raise ValueError(f"miner.{name} must be at least 1, got {value}.")
        if not 0 < low <= high < 1:
            raise ValueError(f"Expected 0 < miner.low <= miner.high < 1, got low={low}, high={high}.")
        self.anchors, self.pool, self.neighbors = anchors, pool, neighbors
        self.low, self.high, self.other_episodes = low, high, other_episodes

    def __call__(
        self, keys: Tensor, labels: Tensor, known: Tensor, episode: Tensor, generator: Generator | None = None
    ) -> Triplets:
        """Mine triplets.

        Args:
            keys: [N, D], what is compared (cosine).
            labels: [N] float.
            known: [N] bool, whether the label is known.
            episode: [N] int64, equal for the steps of one episode.
            generator: random generator, on the CPU.

        Returns:
            At most ``anchors`` triplets.
        """
        if not known.any():
            return _empty(keys.device)
        low, high = torch.quantile(labels[known].float(), labels.new_tensor([self.low, self.high]).float())
        is_high, is_low = known & (labels > high), known & (labels < low)
        classed = (is_high | is_low).nonzero()[:, 0]
        if not len(classed):
            return _empty(keys.device)
        shuffled = classed[torch.randperm(len(classed), generator=generator).to(keys.device)]
        pool = shuffled[: self.pool]
        anchor = pool[: self.anchors]
        allowed = anchor[:, None] != pool
        if self.other_episodes:
            allowed &= episode[anchor, None] != episode[pool]
        _, index = knn(keys[anchor], keys[pool], self.neighbors, mask=allowed)
        found = index >= 0
        neighbor = pool[index.clamp_min(0)]
        same = is_high[neighbor] == is_high[anchor, None]
        positive, has_positive = _first(neighbor, found & same)
        negative, has_negative = _first(neighbor, found & ~same)
        valid = has_positive & has_negative
        anchor, positive, negative = (torch.where(valid, index, 0) for index in (anchor, positive, negative))
        return Triplets(anchor, positive, negative, valid)


def _first(neighbor: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """First (so most similar) wanted neighbour of each row [A, k], and whether there is one."""
    first = wanted.to(torch.uint8).argmax(-1, keepdim=True)
    return neighbor.gather(-1, first)[:, 0], wanted.any(-1)


def _empty(device: torch.device) -> Triplets:
    none = torch.empty(0, dtype=torch.int64, device=device)
    return Triplets(none, none, none, none.bool())
