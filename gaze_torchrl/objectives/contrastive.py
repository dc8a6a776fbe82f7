"""The contrastive loss: what the gaze attends to should tell different outcomes apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from gaze_torchrl.functional import cosine_triplet_loss

__all__ = ["TripletContrastiveLoss"]


class TripletContrastiveLoss(LossModule):
    r"""Cosine triplet loss on features pooled under the gaze.

    .. math:: z = \sum_p map(p)\,(F(p) - \bar F(p)), \qquad
              L = c \cdot mean\left[\cos(z_a, z_n) - \cos(z_a, z_p) + m\right]_+

    Anchor, positive and negative go through the gaze; the features F are constants, so only the gaze learns. F-bar is
    their mean over the triplets of the batch: features behind a ReLU share a large component that would make all
    cosines equal. Pooling over space keeps the gaze from meeting the loss by moving instead of looking: two narrow
    foveae in different places would make flattened maps orthogonal whatever they show.

    Args:
        gaze_network: a `GazeModule`, the policy's own.
        margin: m, in [0, 2].
        coeff: weight c of the loss, >= 0; schedulable (``loss.coeff = 0.05``).
        max_triplets: only the first rows are read, where `TripletReplay` puts its triplets; None reads all.
        reduction: ``"mean"`` over the valid triplets, ``"sum"`` or ``"none"`` (zero where not valid).

    Raises:
        ValueError: if a number is out of range.

    Returns (when called):
        ``loss_gaze``, zero but connected to the graph when no triplet is valid; detached, for logging,
        ``triplet_accuracy`` (share of valid triplets whose positive is closer than the negative) and
        ``triplet_valid`` (valid share of the rows read).

    Reference:
        "Gaze on the Prize", arXiv 2510.08442: triplets of gazed-at features under a cosine margin loss. Pooling,
        centring, margin and weight are not described in what is public of it: they are ours.

    Example:
        >>> from gaze_torchrl.modules import FovealGaze, GazeModule
        >>> loss = TripletContrastiveLoss(GazeModule(FovealGaze(8, (12, 12))))
        >>> maps = {name: torch.rand(5, 8, 12, 12) for name in ("anchor", "positive", "negative")}
        >>> td = TensorDict({"triplets": {**maps, "valid": torch.ones(5, dtype=torch.bool)}}, [5])
        >>> sorted(loss(td).keys())
        ['loss_gaze', 'triplet_accuracy', 'triplet_valid']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys that `set_keys` can change: the three members of the triplets and whether each row is valid."""

        anchor: NestedKey = ("triplets", "anchor")
        positive: NestedKey = ("triplets", "positive")
        negative: NestedKey = ("triplets", "negative")
        valid: NestedKey = ("triplets", "valid")

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    _schedulable_buffers = frozenset({"coeff"})

    gaze_network: TensorDictModule
    gaze_network_params: TensorDictParams
    target_gaze_network_params: TensorDictParams

    out_keys = ["loss_gaze", "triplet_accuracy", "triplet_valid"]  # noqa: RUF012 (TorchRL reads a list)

    def __init__(
        self,
        gaze_network: TensorDictModuleBase,
        *,
        margin: float = 0.3,
        coeff: float = 0.1,
        max_triplets: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if not 0 <= margin <= 2:
            raise ValueError(f"contrast.margin must lie in [0, 2], the range of cosine distances, got {margin}.")
        if coeff < 0:
            raise ValueError(f"contrast.coeff must not be negative, got {coeff}.")
        if max_triplets is not None and max_triplets < 1:
            raise ValueError(f"contrast.num_triplets must be at least 1, got {max_triplets}.")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"contrast.reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
        self.convert_to_functional(gaze_network, "gaze_network")
        self.margin, self.max_triplets, self.reduction = margin, max_triplets, reduction
        parameter = next(self.parameters(), torch.empty(0))
        self.register_coeff_buffer("coeff", coeff, device=parameter.device)
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        self.in_keys = [keys.anchor, keys.positive, keys.negative, keys.valid]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Read the triplets, return the loss."""
        keys, rows = self.tensor_keys, slice(self.max_triplets)
        valid = tensordict.get(keys.valid).flatten()[rows]
        members = torch.stack(
            [tensordict.get(key).flatten(0, -4)[rows] for key in (keys.anchor, keys.positive, keys.negative)]
        )
        anchor, positive, negative = self.embed(members, valid)
        loss = cosine_triplet_loss(anchor, positive, negative, self.margin)
        with torch.no_grad():
            correct = cosine_triplet_loss(anchor, positive, negative, margin=0.0) == 0
            accuracy = (correct & valid).sum() / valid.sum().clamp_min(1)
        return TensorDict(
            {
                "loss_gaze": self.coeff * self._reduce(loss, valid),
                "triplet_accuracy": accuracy,
                "triplet_valid": valid.float().mean(),
            }
        )

    def _reduce(self, loss: Tensor, valid: Tensor) -> Tensor:
        # Select rather than multiply: a row that is not valid may hold anything. The shape stays that of the rows.
        loss = torch.where(valid, loss, 0)
        if self.reduction == "none":
            return loss
        return loss.sum() / valid.sum().clamp_min(1) if self.reduction == "mean" else loss.sum()

    def embed(self, members: Tensor, valid: Tensor) -> Tensor:
        """Centred features pooled under the gaze.

        Args:
            members: features [3, n, C, h, w] of anchors, positives and negatives; no gradient flows into them.
            valid: [n] bool, the triplets that count for the centre.

        Returns:
            Embeddings [3, n, C].
        """
        dtype = next(self.parameters(), members).dtype
        members = members.detach().to(dtype if dtype.is_floating_point else torch.float32)
        # The gaze itself, not its module: the switch `rl_gradient` of the policy is not meant for this loss.
        with self.gaze_network_params.to_module(self.gaze_network):
            attention = self.gaze_network.gaze(members)[0]
        weight = valid.to(members.dtype) / (3 * valid.sum()).clamp_min(1)
        center = torch.einsum("n,mnchw->chw", weight, members)
        return torch.einsum("mnhw,mnchw->mnc", attention, members - center)
