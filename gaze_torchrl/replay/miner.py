"""What all miners share: drawing anchors, searching their neighbours, choosing among them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from gaze_torchrl.functional import knn
from gaze_torchrl.functional.knn_faiss import require_faiss

__all__ = ["NeighborMiner", "Neighborhood", "RelabelledTriplets", "Triplets"]


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

    @classmethod
    def of(cls, anchor: Tensor, positive: Tensor, negative: Tensor, valid: Tensor) -> Triplets:
        """Triplets with zeros where they are not valid."""
        anchor, positive, negative = (torch.where(valid, index, 0) for index in (anchor, positive, negative))
        return cls(anchor, positive, negative, valid)

    @classmethod
    def none(cls, device: torch.device) -> Triplets:
        """No triplet."""
        index = torch.empty(0, dtype=torch.int64, device=device)
        return cls(index, index, index, index.bool())


class RelabelledTriplets(Triplets):
    """Triplets of a control that went by other labels than it was given: losses that read labels must see those, too.

    Args:
        anchor, positive, negative, valid: as for `Triplets`.
    """

    label: Tensor
    """What it went by, one for each step of the bank [N]."""

    @classmethod
    def by(cls, label: Tensor, found: Triplets) -> RelabelledTriplets:
        """The same triplets, with what they went by."""
        relabelled = cls(*found)
        relabelled.label = label
        return relabelled


class Neighborhood(NamedTuple):
    """What was searched, and each anchor's nearest neighbours in it.

    Args:
        anchor: [A] int64, rows of the bank.
        pool: [P] int64, rows of the bank.
        allowed: [A, P] bool, where a step of the pool may be a neighbour of the anchor.
        slot: [A, k] int64, places in the pool of the neighbours, most similar first; -1 beyond their number.
        similarity: [A, k], theirs to the anchor; -inf beyond their number.
    """

    anchor: Tensor
    pool: Tensor
    allowed: Tensor
    slot: Tensor
    similarity: Tensor

    @property
    def neighbor(self) -> Tensor:
        """Rows of the bank of the neighbours, [A, k] int64; any beyond their number."""
        return self.pool[self.slot.clamp_min(0)]


@dataclass
class NeighborMiner:
    """Triplets among the nearest neighbours of anchors; a subclass says which neighbour is positive, which negative.

    The pool is drawn from the steps that take part, and the anchors from the pool; an anchor's neighbours are the most
    similar steps of the pool, without itself and without those that ``exclude`` names. Similar are keys with a large
    cosine, once centred on the pool's mean, or of a small distance, once each number is scaled by its deviation there.
    An anchor without a positive or without a negative among its neighbours gives no triplet. ``choice`` picks among
    several of them:

    - ``nearest``: the positive and the negative most similar to the anchor.
    - ``hard``: the positive least similar to the anchor, the negative most similar to it.
    - ``semi_hard``: the most similar positive, and the most similar negative that is less similar than that positive;
      without one, no triplet.
    - ``random``: a random positive and a random negative.

    A subclass is a dataclass with options of its own that defines `score` and `relate`.

    Args:
        anchors: anchors drawn per call (without replacement, from the pool), at least 1 and at most ``pool``.
        pool: most steps searched per call, a random subset of those that take part if there are more, at least 1.
        neighbors: nearest neighbours looked at per anchor, at least 1.
        exclude: ``"episode"``, no neighbour comes from the anchor's episode, since consecutive steps look alike for
            no reason worth learning; or a number of steps, at least 0: none of that episode comes from fewer steps
            away.
        choice: among the neighbours, see above.
        backend: of the search, see `knn`: ``"torch"`` or ``"faiss"``.
        metric: of the keys: ``"cosine"`` or ``"euclidean"``; what the key module has as its ``metric``.

    Raises:
        ValueError: if an option is out of range.
        ImportError: if ``backend`` is ``"faiss"`` and it is not installed.

    Reference:
        Schroff et al., FaceNet, CVPR 2015, section 3.2 (semi-hard); Hermans et al., In Defense of the Triplet Loss,
        arXiv 1703.07737 (hard).
    """

    anchors: int = 256
    pool: int = 2048
    neighbors: int = 32
    exclude: Literal["episode"] | int = "episode"
    choice: Literal["nearest", "hard", "semi_hard", "random"] = "nearest"
    backend: Literal["torch", "faiss"] = "torch"
    metric: Literal["cosine", "euclidean"] = field(default="cosine", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("anchors", "pool", "neighbors"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"miner.{name} must be at least 1, got {getattr(self, name)}.")
        if self.anchors > self.pool:
            raise ValueError(
                f"miner.anchors must be at most miner.pool = {self.pool}, of which they are drawn, got {self.anchors}."
            )
        steps = isinstance(self.exclude, int) and not isinstance(self.exclude, bool) and self.exclude >= 0
        if self.exclude != "episode" and not steps:
            raise ValueError(f"miner.exclude must be 'episode' or a number of steps >= 0, got {self.exclude!r}.")
        if self.choice not in ("nearest", "hard", "semi_hard", "random"):
            raise ValueError(f"miner.choice must be nearest, hard, semi_hard or random, got {self.choice!r}.")
        if self.backend not in ("torch", "faiss"):
            raise ValueError(f"miner.backend must be 'torch' or 'faiss', got {self.backend!r}.")
        if self.metric not in ("cosine", "euclidean"):
            raise ValueError(f"metric must be 'cosine' or 'euclidean', got {self.metric!r}.")
        if self.backend == "faiss":
            require_faiss()  # now, and not at the first mining

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What the rule compares of each step, and which steps take part.

        Args:
            labels: [N] float.
            known: [N] bool, at least one true.

        Returns:
            Scores [N], and [N] bool, true for known steps only.
        """
        raise NotImplementedError

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Which neighbours could be positives and which negatives.

        Args:
            anchor: scores [A, 1].
            neighbor: scores [A, k].

        Returns:
            Two masks, bool [A, k].
        """
        raise NotImplementedError

    def __call__(
        self,
        keys: Tensor,
        labels: Tensor,
        known: Tensor,
        episode: Tensor,
        step: Tensor,
        generator: Generator | None = None,
    ) -> Triplets:
        """Mine triplets.

        Args:
            keys: [N, D], what is compared.
            labels: [N] float.
            known: [N] bool, whether the label is known.
            episode: [N] int64, equal for the steps of one episode.
            step: [N] int64, time index within the episode.
            generator: random generator, on the CPU.

        Returns:
            At most ``anchors`` triplets.
        """
        if not known.any():
            return Triplets.none(keys.device)
        score, part = self.score(labels, known)
        rows = part.nonzero()[:, 0]
        if not len(rows):
            return Triplets.none(keys.device)
        pool = rows[torch.randperm(len(rows), generator=generator).to(rows.device)][: self.pool]
        anchor = pool[: self.anchors]
        allowed = anchor[:, None] != pool
        near = episode[anchor, None] == episode[pool]
        if self.exclude != "episode":
            near &= (step[anchor, None] - step[pool]).abs() < self.exclude
        allowed &= ~near
        # Centred after the choice of the pool: a copy of the whole bank's keys costs more than their search.
        key = keys[pool]
        key = key - key.mean(0)
        if self.metric == "euclidean":
            key = key / key.square().mean(0).sqrt().clamp_min(torch.finfo(key.dtype).tiny)
        similarity, slot = knn(
            key[: self.anchors], key, self.neighbors, mask=allowed, metric=self.metric, backend=self.backend
        )
        return self.choose(Neighborhood(anchor, pool, allowed, slot, similarity), score, generator)

    def choose(self, near: Neighborhood, score: Tensor, generator: Generator | None) -> Triplets:
        """One positive and one negative of each anchor's neighbours.

        Args:
            near: the anchors and their neighbours.
            score: [N], what `relate` compares.
            generator: as in the call.
        """
        neighbor = near.neighbor
        positive, negative = self.relate(score[near.anchor, None], score[neighbor])
        first, has_positive = self.pick(positive & (near.slot >= 0), generator, least=self.choice == "hard")
        if self.choice == "semi_hard":
            negative = negative & (near.similarity < near.similarity.gather(1, first))
        second, has_negative = self.pick(negative & (near.slot >= 0), generator)
        first, second = (neighbor.gather(1, slot)[:, 0] for slot in (first, second))
        return Triplets.of(near.anchor, first, second, has_positive & has_negative)

    def pick(self, wanted: Tensor, generator: Generator | None, least: bool = False) -> tuple[Tensor, Tensor]:
        """One of the wanted columns [A, 1] of each row [A, k], and whether there is one [A].

        The first, which is the most similar; the last, if ``least``; a random one for ``choice="random"``.
        """
        if self.choice == "random":
            preference = torch.rand(wanted.shape, generator=generator).to(wanted.device)
        else:
            preference = torch.arange(wanted.shape[1], device=wanted.device, dtype=torch.float32)
            preference = preference if least else -preference
        return torch.where(wanted, preference, -torch.inf).argmax(-1, keepdim=True), wanted.any(-1)
