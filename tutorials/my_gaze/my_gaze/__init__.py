"""Three components of one's own: ``gaze-train gaze=stripe labels=step_reward miner=ends``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from gaze_torchrl.functional import axis_centers
from gaze_torchrl.registry import register
from gaze_torchrl.replay import NeighborMiner


@register("gaze", "stripe")
class StripeGaze(nn.Module):
    """A horizontal stripe that moves up and down.

    Its fields stand in configs/gaze/stripe.yaml, beside this file.

    Args:
        in_channels: channels C of the features.
        sigma: half the stripe's height, in map units ([-1, 1] spans the map), > 0.
    """

    out_names = ("map",)

    def __init__(self, in_channels: int, sigma: float = 0.3) -> None:
        super().__init__()
        self.sigma = sigma
        self.height = nn.Linear(in_channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """Features [*, C, h, w] to a map [*, h, w] in [0, 1]."""
        rows, columns = features.shape[-2:]
        y = axis_centers(rows, device=features.device, dtype=features.dtype)
        center = torch.tanh(self.height(features.mean((-2, -1))))
        stripe = torch.exp(-((y - center) ** 2) / (2 * self.sigma**2))
        return (stripe.unsqueeze(-1).expand(*stripe.shape, columns),)


@register("labels", "step_reward")
class StepReward:
    """The reward of the step itself: known at once, and blind to what it leads to.

    It has no YAML file: its fields are those of the signature.

    Args:
        scale: factor on the reward.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Steps [T] to labels [T] and whether each is known [T]."""
        return self.scale * steps["reward"], torch.ones_like(steps["done"])


@register("miner", "ends")
@dataclass
class EndsMiner(NeighborMiner):
    """Whatever the anchor: positive a look-alike among the best steps, negative one among the worst.

    Args:
        anchors, pool, neighbors, exclude, choice, backend: as for `NeighborMiner`.
        share: of the known steps at each end, in (0, 0.5).
    """

    share: float = 0.2

    def score(self, labels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """1 for the best steps, -1 for the worst, 0 between; all known steps take part."""
        labels = labels.float()
        low, high = torch.quantile(labels[known], labels.new_tensor([self.share, 1 - self.share]))
        return (labels > high).int() - (labels < low).int(), known

    def relate(self, anchor: Tensor, neighbor: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of anchors [A, 1] and neighbours [A, k] to which can be positives and which negatives, [A, k]."""
        return neighbor > 0, neighbor < 0
