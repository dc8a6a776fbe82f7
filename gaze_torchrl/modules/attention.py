"""Learned gazes without a location: a weight for every cell."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.registry import register

__all__ = ["AttentionPoolGaze", "MaskGaze", "PatchGaze"]


@register("gaze", "patch")
class PatchGaze(nn.Module):
    r"""A free-form map: each cell gets a weight from its own features alone.

    Two 1x1 convolutions give one logit l per cell, and

    .. math:: map(p) = \exp(l(p) - \max l) \quad \text{(softmax)}, \qquad
              map(p) = \frac{1}{1 + \exp(-l(p))} \quad \text{(sigmoid)}.

    The softmax is scaled to a peak of 1, so that the map does not fade with the number of cells: only what a cell
    has over the others counts, and some cell is always seen in full. With the sigmoid each cell is for itself.

    Args:
        in_channels: channels C of the features.
        hidden: channels between the two convolutions.
        activation: ``"softmax"`` or ``"sigmoid"``.

    Raises:
        ValueError: for a number that is not positive or another activation.

    Example:
        >>> PatchGaze(32)(torch.rand(2, 32, 16, 16))[0].amax((-2, -1)).tolist()
        [1.0, 1.0]
    """

    out_names = ("map",)

    def __init__(
        self, in_channels: int, hidden: int = 16, activation: Literal["softmax", "sigmoid"] = "softmax"
    ) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels, hidden=hidden)
        if activation not in ("softmax", "sigmoid"):
            raise ValueError(f"gaze.activation must be 'softmax' or 'sigmoid', got {activation!r}.")
        self.activation = activation
        # A softmax does not see a bias.
        last = nn.Conv2d(hidden, 1, 1, bias=activation == "sigmoid")
        self.logits = nn.Sequential(nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), last)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """Features [*, C, h, w] to the map [*, h, w] in [0, 1]."""
        logits = per_image(self.logits, features)
        if self.activation == "sigmoid":
            return (logits.sigmoid(),)
        return ((logits - logits.amax((-2, -1), keepdim=True)).exp(),)


@register("gaze", "mask")
class MaskGaze(nn.Module):
    """A soft mask that sees each cell's surroundings, and starts nearly open.

    Three 3x3 convolutions and a sigmoid per cell. Nothing but the reward says what to mask: there is no loss of its
    own, and no force towards a small mask.

    Args:
        in_channels: channels C of the features.
        hidden: channels between the convolutions.
        start: about the value of every cell before training, in (0, 1); near 1 the agent starts as the plain CNN.

    Raises:
        ValueError: for a number out of range.

    Reference:
        Grooten et al., "MaDi: Learning to Mask Distractions for Generalization in Visual Deep Reinforcement
        Learning", arXiv 2312.15339. It masks pixels; this masks the cells of the feature map.

    Example:
        >>> bool((MaskGaze(32)(torch.rand(2, 32, 16, 16))[0] > 0.8).all())
        True
    """

    out_names = ("map",)

    def __init__(self, in_channels: int, hidden: int = 16, start: float = 0.95) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels, hidden=hidden)
        if not 0 < start < 1:
            raise ValueError(f"gaze.start must lie in (0, 1), got {start}.")
        last = nn.Conv2d(hidden, 1, 3, padding=1)
        with torch.no_grad():
            last.bias.fill_(math.log(start / (1 - start)))  # type: ignore[union-attr]
        self.logits = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            last,
        )

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """Features [*, C, h, w] to the map [*, h, w] in (0, 1)."""
        return (per_image(self.logits, features).sigmoid(),)


@register("gaze", "attention_pool")
class AttentionPoolGaze(nn.Module):
    r"""One learned query attends over the cells; its weights are the map, and sum to one.

    .. math:: map = softmax\left(q^T F / \sqrt{C}\right)

    With `PoolReadout` this is attention pooling. The query starts at zero, where it is mean pooling. No projection
    to keys: for one query it would be a second name for the same function. What `FlattenReadout`
    embeds is about h w times smaller than under a gaze with a peak of 1, 256 times at 16x16 cells.

    Args:
        in_channels: channels C of the features.

    Example:
        >>> AttentionPoolGaze(32)(torch.rand(2, 32, 4, 4))[0].unique().tolist()
        [0.0625]
    """

    out_names = ("map",)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels)
        self.query = nn.Parameter(torch.zeros(in_channels))

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """Features [*, C, h, w] to the map [*, h, w] in [0, 1]."""
        logits = (self.query * len(self.query) ** -0.5) @ features.flatten(-2)
        return (logits.softmax(-1).unflatten(-1, features.shape[-2:]),)


def per_image(logits: nn.Module, features: Tensor) -> Tensor:
    """One channel of a convolutional network, of features with any leading dims: [*, C, h, w] to [*, h, w]."""
    images = features.reshape(-1, *features.shape[-3:])
    return logits(images).reshape(*features.shape[:-3], *features.shape[-2:])
