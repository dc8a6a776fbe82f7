"""Controls: miners without the information that should matter, to tell what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gaze_torchrl.registry import register
from gaze_torchrl.replay.miner import RelabelledTriplets, Triplets
from gaze_torchrl.replay.miner_rules import QuantileMiner

__all__ = ["RandomMiner", "ShuffledReturnsMiner"]


@register("miner", "random")
@dataclass
class RandomMiner:
    """Control: three different random steps of known label, whatever they look like and whatever they were worth.

    A loss that reads the labels themselves sees them dealt out anew.

    Args:
        anchors: triplets per call, at most, at least 1.

    Raises:
        ValueError: if ``anchors`` is below 1.

    Example:
        >>> known, index = torch.tensor([True, True, False, True]), torch.arange(4)
        >>> triplets = RandomMiner()(torch.ones(4, 2), torch.ones(4), known, index, index)
        >>> torch.stack(triplets[:3]).sort(0).values[:, 0]
        tensor([0, 1, 3])
    """

    anchors: int = 256

    def __post_init__(self) -> None:
        if self.anchors < 1:
            raise ValueError(f"miner.anchors must be at least 1, got {self.anchors}.")

    def __call__(
        self,
        keys: Tensor,
        labels: Tensor,
        known: Tensor,
        episode: Tensor,
        step: Tensor,
        generator: Generator | None = None,
    ) -> Triplets:
        """Draw triplets; arguments and result as for `NeighborMiner`."""
        rows = known.nonzero()[:, 0]
        total, device = len(rows), rows.device
        if total < 3:
            return Triplets.none(device)
        dealt, ordered = labels.clone(), rows
        rows = rows[torch.randperm(total, generator=generator).to(device)]
        dealt[rows] = labels[ordered]
        place = torch.arange(min(self.anchors, total), device=device)
        # Two different steps to go forward on the circle of rows, from 1 to total - 1.
        first = torch.randint(1, total, place.shape, generator=generator).to(device)
        second = torch.randint(1, total - 1, place.shape, generator=generator).to(device)
        second = second + (second >= first)
        anchor, positive, negative = (rows[(place + jump) % total] for jump in (torch.zeros_like(first), first, second))
        found = Triplets(anchor, positive, negative, torch.ones_like(anchor, dtype=torch.bool))
        return RelabelledTriplets.by(dealt, found)


@register("miner", "shuffled_returns")
@dataclass
class ShuffledReturnsMiner(QuantileMiner):
    """Control: `QuantileMiner` on labels dealt out anew among the known steps: look-alikes of random outcomes.

    Args:
        anchors, pool, neighbors, exclude, choice, backend, low, high: as for `QuantileMiner`.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> keys, labels, index = torch.randn(40, 2), torch.randn(40), torch.arange(40)
        >>> miner = ShuffledReturnsMiner(neighbors=40)
        >>> miner(keys, labels, torch.ones(40, dtype=torch.bool), index, index).valid.all().item()
        True
    """

    def __call__(
        self,
        keys: Tensor,
        labels: Tensor,
        known: Tensor,
        episode: Tensor,
        step: Tensor,
        generator: Generator | None = None,
    ) -> Triplets:
        """Mine triplets; arguments and result as for `NeighborMiner`."""
        rows = known.nonzero()[:, 0]
        shuffled = labels.clone()
        shuffled[rows] = labels[rows[torch.randperm(len(rows), generator=generator).to(rows.device)]]
        found = super().__call__(keys, shuffled, known, episode, step, generator)
        return RelabelledTriplets.by(shuffled, found)
