"""What a mining found, in numbers to log."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NO_FACTS", "mining_facts"]

NO_FACTS = dict.fromkeys(("mined_triplets", "neighbor_similarity", "known_labels", "label_std"), torch.tensor(0.0))
"""Those of a bank that was not mined yet."""


def mining_facts(keys: Tensor, triplets: Tensor, labels: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Scalars that say whether a mining found triplets, of look-alikes, with labels that differ.

    Args:
        keys: what the steps of the bank are compared by [N, D].
        triplets: rows of anchors, positives and negatives [M, 3] int64.
        labels: of the steps, not normalised [N].
        known: whether each label is known [N] bool.

    Returns:
        ``mined_triplets``, M; ``neighbor_similarity``, how alike positives' and negatives' keys are to their anchors',
        the mean cosine (whatever the miner's metric) once the mean key is taken from all: 1 for copies, about 0 by
        chance; ``known_labels``, the share of the steps whose label is known; ``label_std``, the standard deviation of
        the known labels. Zero where there is nothing to measure.

    Example:
        >>> keys, labels = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), torch.tensor([0.0, 1.0, 1.0, 0.0])
        >>> facts = mining_facts(keys, torch.tensor([[0, 1, 2]]), labels, torch.tensor([True, True, False, False]))
        >>> {name: fact.item() for name, fact in facts.items()}
        {'mined_triplets': 1.0, 'neighbor_similarity': 0.0, 'known_labels': 0.5, 'label_std': 0.5}
    """
    share = known.float().mean()
    mean = torch.where(known, labels, 0).mean() / share
    variance = torch.where(known, (labels - mean).square(), 0).mean() / share
    key = keys[triplets].float() - keys.mean(0, dtype=torch.float32)
    alike = torch.cosine_similarity(key[:, :1], key[:, 1:], dim=-1)
    return {
        "mined_triplets": torch.tensor(float(len(triplets)), device=keys.device),
        "neighbor_similarity": alike.mean().nan_to_num(0),
        "known_labels": share,
        "label_std": variance.sqrt().nan_to_num(0),
    }
