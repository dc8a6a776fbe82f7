"""The residual encoder of IMPALA."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from gaze_torchrl.modules.encoder import ConvEncoder
from gaze_torchrl.registry import register

__all__ = ["ImpalaCNN", "ResidualBlock"]


class ResidualBlock(nn.Module):
    """Two padded 3x3 convolutions, each behind a ReLU, added to their input.

    Args:
        channels: of the input and the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C, h, w] to features of the same shape."""
        return features + self.residual(features)


@register("encoder", "impala")
class ImpalaCNN(ConvEncoder):
    """Stages of a 3x3 convolution, a max pooling of stride 2 and two residual blocks, and a ReLU at the end.

    Args:
        channels: output channels of each stage, as many stages as numbers. At 64 pixels three stages give 8x8 cells
            and two give 16x16.
        in_channels: image channels.

    Raises:
        ValueError: if ``channels`` is empty or not positive.

    Reference:
        Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures",
        ICML 2018 (the large network, without the linear layer).

    Example:
        >>> import torch
        >>> ImpalaCNN((16, 32))(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 32, 16, 16])
    """

    def __init__(self, channels: Sequence[int] = (16, 32, 32), in_channels: int = 3) -> None:
        if not channels or min(channels) < 1:
            raise ValueError(f"encoder.channels must be one or more numbers of at least 1, got {list(channels)}.")
        layers: list[nn.Module] = []
        for inputs, outputs in zip((in_channels, *channels), channels, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.MaxPool2d(3, stride=2, padding=1),
                ResidualBlock(outputs),
                ResidualBlock(outputs),
            ]
        super().__init__(*layers, nn.ReLU())
