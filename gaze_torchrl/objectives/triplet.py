"""Contrastive losses of one triplet at a time, on cosine similarities."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from gaze_torchrl.functional import cosine_triplet_loss, soft_margin_triplet_loss
from gaze_torchrl.modules import GazeModule
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.objectives.contrastive import ContrastiveLoss
from gaze_torchrl.registry import register

__all__ = ["SoftMarginContrastiveLoss", "TripletContrastiveLoss"]


@register("contrast", "triplet")
class TripletContrastiveLoss(ContrastiveLoss):
    r"""Cosine triplet loss with a margin (`cosine_triplet_loss`).

    .. math:: L = c \cdot mean\left[\cos(z_a, z_n) - \cos(z_a, z_p) + m\right]_+

    Args:
        gaze_network, encoder_network: as for `ContrastiveLoss`, with what is returned.
        margin: m, in [0, 2].
        **shared: ``proprio_dim``, ``embedding``, ``projection``, ``center``, ``attention``, ``target``, ``coeff``,
            ``num_triplets`` and ``reduction``, as for `ContrastiveLoss`.

    Raises:
        ValueError: if a number is out of range, a choice is unknown, or an encoder is needed.

    Reference:
        "Gaze on the Prize", arXiv 2510.08442: triplets of gazed-at features under a cosine margin loss. Margin, weight
        and embedding are not described in what is public of it: they are our choices.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from gaze_torchrl.modules import FovealGaze
        >>> loss = TripletContrastiveLoss(GazeModule(FovealGaze(8, (12, 12))))
        >>> loss.member_keys
        ['features']
        >>> names = ("anchor", "positive", "negative")
        >>> members = {name: {"features": torch.rand(5, 8, 12, 12), "label": torch.rand(5)} for name in names}
        >>> td = TensorDict({"triplets": {**members, "valid": torch.ones(5, dtype=torch.bool)}}, [5])
        >>> sorted(loss(td).keys())
        ['loss_contrast', 'triplet_accuracy', 'triplet_valid']
    """

    def __init__(
        self,
        gaze_network: GazeModule,
        encoder_network: TensorDictModuleBase | None = None,
        *,
        margin: float = 0.3,
        **shared: Any,
    ) -> None:
        if not 0 <= margin <= 2:
            raise ValueError(f"contrast.margin must lie in [0, 2], the range of cosine distances, got {margin}.")
        super().__init__(gaze_network, encoder_network, **shared)
        self.margin = margin

    def criterion(self, embeddings: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Hinge of each triplet, [n]."""
        anchor, positive, negative = embeddings.unbind()
        return cosine_triplet_loss(anchor, positive, negative, self.margin)


@register("contrast", "soft_margin")
class SoftMarginContrastiveLoss(ContrastiveLoss):
    r"""Cosine triplet loss without a margin to reach (`soft_margin_triplet_loss`).

    .. math:: L = c \cdot mean\,\log\left(1 + \exp\frac{\cos(z_a, z_n) - \cos(z_a, z_p)}{\tau}\right)

    Args:
        gaze_network, encoder_network: as for `ContrastiveLoss`, with what is returned.
        temperature: tau, positive; the lower, the more the loss is about the triplets told apart worst.
        **shared: ``proprio_dim``, ``embedding``, ``projection``, ``center``, ``attention``, ``target``, ``coeff``,
            ``num_triplets`` and ``reduction``, as for `ContrastiveLoss`.

    Raises:
        ValueError: if a number is out of range, a choice is unknown, or an encoder is needed.

    Reference:
        Hermans et al., "In Defense of the Triplet Loss for Person Re-Identification", 2017 (on distances).

    Example:
        >>> from gaze_torchrl.modules import FovealGaze
        >>> SoftMarginContrastiveLoss(GazeModule(FovealGaze(8, (12, 12))), temperature=0.2).temperature
        0.2
    """

    def __init__(
        self,
        gaze_network: GazeModule,
        encoder_network: TensorDictModuleBase | None = None,
        *,
        temperature: float = 0.1,
        **shared: Any,
    ) -> None:
        check_positive("contrast", temperature=temperature)
        super().__init__(gaze_network, encoder_network, **shared)
        self.temperature = temperature

    def criterion(self, embeddings: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Softplus of each triplet, [n]."""
        anchor, positive, negative = embeddings.unbind()
        return soft_margin_triplet_loss(anchor, positive, negative, self.temperature)
