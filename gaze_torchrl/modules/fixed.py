"""Gazes that learn nothing: everywhere the same, or always the middle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gaze_torchrl.functional import gaussian_map
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.registry import register

__all__ = ["FixedCenterGaze", "NoGaze"]


@register("gaze", "global_pool")
@register("gaze", "none")
class NoGaze(nn.Module):
    """No gaze: every cell counts as it is. The plain CNN, or with `PoolReadout` global average pooling.

    Args:
        in_channels: channels of the features.
        map_size: (h, w) of the features.

    Example:
        >>> NoGaze(32, (16, 16))(torch.rand(2, 32, 16, 16))[0].unique()
        tensor([1.])
    """

    out_names = ("map",)

    def __init__(self, in_channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        if in_channels < 1 or min(map_size) < 1:
            raise ValueError(f"Expected positive sizes, got in_channels={in_channels}, map_size={tuple(map_size)}.")

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """Features [*, C, h, w] to a map of ones [*, h, w]."""
        return (torch.ones_like(features[..., 0, :, :]),)


@register("gaze", "fixed_center")
class FixedCenterGaze(nn.Module):
    """One Gaussian in the middle of the map that never moves: what a bias to the centre achieves alone.

    Args:
        sigma: its standard deviation, in map units ([-1, 1] spans the map), > 0.

    Raises:
        ValueError: if it is not positive.

    Example:
        >>> attention, mean, covariance, foveae = FixedCenterGaze(sigma=0.5)(torch.rand(2, 32, 16, 16))
        >>> mean[0].tolist(), covariance[0].tolist()
        ([[0.0, 0.0]], [[[0.25, 0.0], [0.0, 0.25]]])
    """

    out_names = ("map", "mean", "covariance", "foveae")
    num_foveae = 1

    def __init__(self, sigma: float = 0.5) -> None:
        super().__init__()
        check_positive("gaze", sigma=sigma)
        self.sigma = sigma

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features [*, C, h, w], of which only the shape counts, to map, mean, covariance and foveae (K = 1)."""
        mean = features.new_zeros(*features.shape[:-3], 1, 2, dtype=torch.promote_types(features.dtype, torch.float32))
        covariance = self.sigma**2 * torch.eye(2, dtype=mean.dtype, device=mean.device).expand(*mean.shape, 2)
        foveae = gaussian_map(mean, covariance, *features.shape[-2:])
        return foveae.squeeze(-3), mean, covariance, foveae
