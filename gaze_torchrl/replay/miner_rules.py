"""Rules of mining: which of an anchor's look-alikes is its positive, which its negative."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gaze_torchrl.functional import mid_rank
from gaze_torchrl.registry import register
from gaze_torchrl.replay.miner import Neighborhood, NeighborMiner, Triplets

__all__ = ["AnchorRelativeMiner", "ClassConsistentMiner", "QuantileMiner", "ThresholdMiner", "VisualMiner"]


def _beyond(labels: Tensor, quantile: Tensor, known: Tensor) -> Tensor:
    """Labels above a quantile, [N] bool; those equal to it if no known label is above."""
    above = labels > quantile
    return torch.where((above & known).any(), above, labels >= quantile)


@register("miner", "quantile")
@dataclass
class QuantileMiner(NeighborMiner):
    """Look-alikes across two quantiles of the label: positive in the anchor's class, negative in the other.

    Steps with a label above the ``high`` quantile of all known labels form one class, those below the ``low``
    quantile the other; what lies between is left out. Where the highest labels fill the quantile itself, as success
    does (0 or 1), they form the class above, and likewise the lowest. Equal labels give no triplet at all.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`.
        low, high: quantiles of the known labels, 0 < low <= high < 1.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.0], [0.0, 1.0]])
        >>> labels = torch.tensor([1.0, 0.9, 0.0, 0.1])
        >>> known, episode, step = torch.ones(4, dtype=torch.bool), torch.arange(4), torch.zeros(4, dtype=torch.int64)
        >>> triplets = QuantileMiner(anchors=4, low=0.4, high=0.6)(keys, labels, known, episode, step)
        >>> triplets.valid.all().item(), triplets.negative[triplets.anchor == 0].item()
        (True, 2)
    """

    low: float = 0.3
    high: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low <= self.high < 1:
            raise ValueError(f"Expected 0 < miner.low <= miner.high < 1, got low={self.low}, high={self.high}.")

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a step is in the high class; the classed steps take part."""
        labels = labels.float()
        low, high = torch.quantile(labels[known], labels.new_tensor([self.low, self.high]))
        is_high, is_low = _beyond(labels, high, known), _beyond(-labels, -low, known)
        # Equal labels are in both.
        return is_high, known & (is_high ^ is_low)

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Positive in the anchor's class, negative in the other."""
        return neighbor == anchor, neighbor != anchor


@dataclass
class _SplitMiner(NeighborMiner):
    """Two classes of known steps: labels above a quantile and the others.

    Where the highest labels fill the quantile itself, as those of mostly successful episodes do, they form the class
    above: only equal labels are never split.
    """

    quantile: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.quantile < 1:
            raise ValueError(f"miner.quantile must lie between 0 and 1, got {self.quantile}.")

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Whether a step is in the class above; all known steps take part."""
        labels = labels.float()
        return _beyond(labels, torch.quantile(labels[known], self.quantile), known), known


@register("miner", "class_consistent")
@dataclass
class ClassConsistentMiner(_SplitMiner):
    """Look-alikes across one quantile of the label: positive in the anchor's class, negative in the other.

    Unlike `QuantileMiner` it leaves out no step. Where the highest label fills the quantile, as success (0 or 1) may,
    it is the class above. Equal labels give no triplet.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`.
        quantile: of the known labels, in (0, 1); labels above it form the high class, the others the low one.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> labels, keys = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.ones(4, 2)
        >>> known, episode, step = torch.ones(4, dtype=torch.bool), torch.arange(4), torch.zeros(4, dtype=torch.int64)
        >>> triplets = ClassConsistentMiner(anchors=4)(keys, labels, known, episode, step)
        >>> triplets.valid.sum().item(), triplets.negative[triplets.valid].unique().item()
        (3, 3)
    """

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Positive in the anchor's class, negative in the other."""
        return neighbor == anchor, neighbor != anchor


@register("miner", "threshold")
@dataclass
class ThresholdMiner(_SplitMiner):
    """Look-alikes across one quantile of the label: positive above, negative below, whatever the anchor's label.

    Every known step can be an anchor: it is to resemble what went well. Classes as in `ClassConsistentMiner`.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`.
        quantile: of the known labels, in (0, 1).

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> labels, keys = torch.tensor([0.0, 1.0, 0.0]), torch.ones(3, 2)
        >>> known, episode, step = torch.ones(3, dtype=torch.bool), torch.arange(3), torch.zeros(3, dtype=torch.int64)
        >>> triplets = ThresholdMiner(anchors=3)(keys, labels, known, episode, step)
        >>> triplets.anchor[triplets.valid].sort().values, triplets.positive[triplets.valid]
        (tensor([0, 2]), tensor([1, 1]))
    """

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Positive above, negative below."""
        return neighbor, ~neighbor


@register("miner", "anchor_relative")
@dataclass
class AnchorRelativeMiner(NeighborMiner):
    """Look-alikes with other outcomes than the anchor's: positive worth more by a margin, negative worth less.

    The steps with the highest and with the lowest labels are no anchors, since nothing lies beyond them: labels of two
    values, such as success, give no triplet at all.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`.
        margin: least difference to the anchor's label, > 0, in units of the label; after ``normalize=rank`` a share
            of all known steps.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> labels, keys = torch.tensor([0.0, 0.5, 1.0]), torch.ones(3, 2)
        >>> known, episode, step = torch.ones(3, dtype=torch.bool), torch.arange(3), torch.zeros(3, dtype=torch.int64)
        >>> triplets = AnchorRelativeMiner(anchors=3)(keys, labels, known, episode, step)
        >>> [index[triplets.valid].item() for index in triplets[:3]]
        [1, 2, 0]
    """

    margin: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.margin > 0:
            raise ValueError(f"miner.margin must be positive, got {self.margin}.")

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The label itself; all known steps take part."""
        return labels, known

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Positive above the anchor, negative below it, by the margin."""
        return neighbor >= anchor + self.margin, neighbor <= anchor - self.margin


@register("miner", "visual")
@dataclass
class VisualMiner(NeighborMiner):
    """Looks decide, and outcomes differ: positive a look-alike of another return, negative what looks different.

    The positive is an anchor's neighbour whose label differs by a share of the known steps; the negative a random
    step of the pool, of any label, that is not among the neighbours. ``choice`` picks the positive; ``semi_hard`` is
    ``nearest`` here, since every negative is less similar than the positive.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`; ``exclude`` holds for negatives
            too.
        gap: least distance of the ranks of the two labels, in (0, 1): the share of the known labels between them.

    Raises:
        ValueError: if an option is out of range.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> labels = torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> known, episode, step = torch.ones(4, dtype=torch.bool), torch.arange(4), torch.zeros(4, dtype=torch.int64)
        >>> triplets = VisualMiner(anchors=4, neighbors=1)(keys, labels, known, episode, step)
        >>> triplets.positive[triplets.anchor == 0].item(), (triplets.negative[triplets.anchor == 0] >= 2).item()
        (1, True)
    """

    gap: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gap < 1:
            raise ValueError(f"miner.gap must lie between 0 and 1, got {self.gap}.")

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """The rank of the label; all known steps take part."""
        return mid_rank(labels, known), known

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Positive with another label; no neighbour is a negative."""
        positive = (neighbor - anchor).abs() >= self.gap
        return positive, torch.zeros_like(positive)

    def choose(self, near: Neighborhood, score: Tensor, generator: Generator | None) -> Triplets:
        """A positive among the neighbours, a random negative outside them."""
        positive, _ = self.relate(score[near.anchor, None], score[near.neighbor])
        slot, has_positive = self.pick(positive & (near.slot >= 0), generator, least=self.choice == "hard")
        # Padded slots fall into a column of their own.
        columns = torch.where(near.slot >= 0, near.slot, len(near.pool))
        outside = torch.cat([near.allowed, near.allowed[:, :1]], 1).scatter(1, columns, False)[:, :-1]
        noise = torch.rand(outside.shape, generator=generator).to(outside.device)
        negative = near.pool[torch.where(outside, noise, -1.0).argmax(-1)]
        picked = near.neighbor.gather(1, slot)[:, 0]
        return Triplets.of(near.anchor, picked, negative, has_positive & outside.any(-1))
