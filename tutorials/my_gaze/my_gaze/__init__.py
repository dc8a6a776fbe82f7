"""Two components of one's own: ``gaze-train gaze=stripe labels=step_reward``."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from gaze_torchrl.functional import axis_centers
from gaze_torchrl.registry import register


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
