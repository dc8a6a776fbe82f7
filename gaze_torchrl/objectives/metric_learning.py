"""The losses of pytorch-metric-learning, on the embeddings of the triplets."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn

from gaze_torchrl.modules import GazeModule
from gaze_torchrl.objectives.contrastive import ContrastiveLoss
from gaze_torchrl.registry import register

__all__ = ["MetricLearningContrastiveLoss"]


@register("contrast", "metric_learning")
class MetricLearningContrastiveLoss(ContrastiveLoss):
    """Any loss of pytorch-metric-learning that learns from index triples (anchor, positive, negative) alone.

    Those of pairs and triplets do; those of classes, such as ``ArcFaceLoss``, and those that find pairs by label, such
    as ``NCALoss``, do not, which a trial at construction finds out.

    The library reduces over triplets or pairs itself: with ``reduction="none"`` every valid row holds its number, and
    ``"sum"`` counts it once per valid row. It picks the valid rows, whose number is known to the host alone: the loss
    waits for the device and cannot be compiled as one graph.

    Args:
        gaze_network, encoder_network: as for `ContrastiveLoss`, with what is returned.
        loss: name of a class in ``pytorch_metric_learning.losses``.
        options: its arguments; None for its defaults.
        **shared: ``proprio_dim``, ``embedding``, ``projection``, ``center``, ``attention``, ``target``, ``coeff``,
            ``num_triplets`` and ``reduction``, as for `ContrastiveLoss`.

    Raises:
        ImportError: if the library is not installed.
        ValueError: if the library has no such loss, it refuses its options, it does not learn from triples alone, a
            number is out of range, a choice is unknown, or an encoder is needed.

    Reference:
        Musgrave et al., "PyTorch Metric Learning", arXiv 2008.09164.

    Example:
        >>> from gaze_torchrl.modules import FovealGaze
        >>> gaze = GazeModule(FovealGaze(8, (12, 12)))
        >>> MetricLearningContrastiveLoss(gaze, loss="NTXentLoss", options={"temperature": 0.1})  # doctest: +SKIP
    """

    def __init__(
        self,
        gaze_network: GazeModule,
        encoder_network: TensorDictModuleBase | None = None,
        *,
        loss: str = "TripletMarginLoss",
        options: Mapping[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(gaze_network, encoder_network, **shared)
        self.metric_loss = _build(loss, options or {})

    def criterion(self, embeddings: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """What the library says of the valid triplets, [n] times the same."""
        return _of_triples(self.metric_loss, embeddings, valid).expand(len(valid))


def _build(loss: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise ImportError(
            'contrast=metric_learning needs pytorch-metric-learning: pip install "gaze_torchrl[metric_learning]".'
        ) from error
    kind = getattr(losses, loss, None)
    if not isinstance(kind, type):
        raise ValueError(f"contrast.loss must be a class in pytorch_metric_learning.losses, got {loss!r}.")
    try:
        metric_loss = kind(**options)
        _try(copy.deepcopy(metric_loss))  # some keep statistics
    except Exception as error:
        raise ValueError(
            f"contrast.loss={loss} with contrast.options={dict(options)} fails: {type(error).__name__}, {error}. "
            "Choose a loss of pairs or triplets, such as TripletMarginLoss, NTXentLoss, ContrastiveLoss or "
            "MultiSimilarityLoss, not one that needs class labels, pairs by label or a reference."
        ) from error
    return metric_loss


def _try(metric_loss: nn.Module) -> None:
    # Neither alike nor opposite, so that no margin is met by all of them.
    embeddings = (torch.arange(3.0 * 8 * 8) ** 2).cos().view(3, 8, 8).requires_grad_()
    with torch.enable_grad():
        loss = _of_triples(metric_loss, embeddings, torch.ones(8, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(loss, embeddings)
    if not (gradient.isfinite().all() and gradient.any()):
        raise ValueError(f"it learns nothing from index triples, with a loss of {loss.item():g} and no gradient")


def _of_triples(metric_loss: nn.Module, embeddings: Tensor, valid: Tensor) -> Tensor:
    """The library's number for the valid ones of triplets [3, n, D]."""
    rows = embeddings[:, valid]  # some losses take whatever else there is for negatives
    places = torch.arange(rows.shape[:2].numel(), device=rows.device).view(3, -1)
    # The triples decide, but the library wants a label per row. No class has such a number: a loss of classes fails.
    return metric_loss(rows.flatten(0, 1), places.flatten() - 2**40, tuple(places))
