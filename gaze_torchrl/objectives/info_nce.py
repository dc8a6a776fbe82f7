"""InfoNCE over all members of the batch, with positives ranked by their return."""

from __future__ import annotations

from typing import Any

from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from gaze_torchrl.functional import rank_n_contrast
from gaze_torchrl.modules import GazeModule
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.objectives.contrastive import ContrastiveLoss
from gaze_torchrl.registry import register

__all__ = ["InfoNCEContrastiveLoss"]


@register("contrast", "info_nce")
class InfoNCEContrastiveLoss(ContrastiveLoss):
    """Rank-N-Contrast (`rank_n_contrast`) over the 3n members of the valid triplets, whichever triplet they are from.

    The triplets only say which steps take part: every member is contrasted with every other, and their labels, not
    their roles, decide what is to be close. With ``reduction="none"`` a triplet's loss is the mean of its members'.

    Args:
        gaze_network, encoder_network: as for `ContrastiveLoss`, with what is returned.
        temperature: of the similarities, positive.
        **shared: ``proprio_dim``, ``embedding``, ``projection``, ``center``, ``attention``, ``target``, ``coeff``,
            ``num_triplets`` and ``reduction``, as for `ContrastiveLoss`.

    Raises:
        ValueError: if a number is out of range, a choice is unknown, or an encoder is needed.

    Reference:
        Zha et al., "Rank-N-Contrast: Learning Continuous Representations for Regression", NeurIPS 2023; the label is
        the return here, and the similarity the cosine.

    Example:
        >>> from gaze_torchrl.modules import FovealGaze
        >>> InfoNCEContrastiveLoss(GazeModule(FovealGaze(8, (12, 12))), temperature=0.2).out_keys
        ['loss_contrast', 'triplet_accuracy', 'triplet_valid']
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
        """Mean loss of each triplet's three members, [n]."""
        losses = rank_n_contrast(embeddings.flatten(0, 1), labels.flatten(), valid.repeat(3), self.temperature)
        return losses.reshape(labels.shape).mean(0)
