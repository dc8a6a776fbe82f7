"""The losses of pytorch-metric-learning, on the embeddings of the triplets."""

from __future__ import annotations

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
    """Any loss of pytorch-metric-learning that takes index triples (anchor, positive, negative).

    The library reduces over triplets or pairs itself: with ``reduction="none"`` every valid row holds its number, and
    ``"sum"`` counts it once per valid row. It picks the valid rows, whose number is known to the host alone: the loss
    waits for the device and cannot be compiled as one graph.

    Args:
        gaze_network, encoder_network: as for `ContrastiveLoss`, with what is returned.
        loss: name of a class in ``pytorch_metric_learning.losses``.
        options: its arguments; None for its defaults.
        **shared: ``embedding``, ``projection``, ``center``, ``attention``, ``target``, ``coeff``, ``num_triplets`` and
            ``reduction``, as for `ContrastiveLoss`.

    Raises:
        ImportError: if the library is not installed.
        ValueError: if the library has no such loss, a number is out of range, a choice is unknown, or an encoder is
            needed.

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
        places = torch.arange(embeddings.shape[:2].numel(), device=valid.device).view(3, -1)
        anchor, positive, negative = places[:, valid]
        # The triples decide; the library only wants a label per row.
        loss = self.metric_loss(embeddings.flatten(0, 1), places.flatten(), (anchor, positive, negative))
        return loss.expand(len(valid))


def _build(loss: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        from pytorch_metric_learning import losses
    except ImportError as error:
        raise ImportError(
            'contrast=metric_learning needs pytorch-metric-learning: pip install "gaze_torchrl[metric_learning]".'
        ) from error
    if not hasattr(losses, loss):
        raise ValueError(f"contrast.loss must be a class in pytorch_metric_learning.losses, got {loss!r}.")
    return getattr(losses, loss)(**options)
