"""Gaze heads: from a feature map to the mean and covariance of K Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gaze_torchrl.functional import covariance_from, spatial_moments
from gaze_torchrl.modules.checks import check_positive

__all__ = ["MLPHead", "MomentsHead"]


class MomentsHead(nn.Module):
    r"""Mean and covariance of a convolutional saliency (moment matching).

    Two 1x1 convolutions give one logit per cell and fovea; the Gaussian takes the moments of their softmax,

    .. math:: \mu = E_p[x], \qquad \Sigma = s\, Cov_p[x] + \sigma_{min}^2 I, \qquad p = softmax(\beta\, logits).

    A cell that matters pulls the mean towards itself, whatever its place: unlike a regression of five numbers, the
    head need not learn where things are, only what they look like.

    Args:
        in_channels: channels C of the features.
        num_foveae: Gaussians K per map.
        hidden: channels between the two convolutions.
        sharpness: factor beta on the logits, > 0. With near-uniform logits every fovea starts in the middle of the
            image, where its place says nothing and training is slow to move it; sharp ones point at something.
        spread: factor s on the covariance of the saliency, > 0.
        min_sigma: smallest standard deviation of a fovea, in map units ([-1, 1] spans the map), > 0.
    """

    def __init__(
        self,
        in_channels: int,
        num_foveae: int = 1,
        hidden: int = 16,
        sharpness: float = 30.0,
        spread: float = 3.0,
        min_sigma: float = 0.15,
    ) -> None:
        super().__init__()
        check_positive(
            "gaze", num_foveae=num_foveae, hidden=hidden, sharpness=sharpness, spread=spread, min_sigma=min_sigma
        )
        self.sharpness, self.spread, self.min_sigma = sharpness, spread, min_sigma
        self.saliency = nn.Sequential(nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, num_foveae, 1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2]."""
        mean, covariance = spatial_moments(self.sharpness * self.saliency(features))
        floor = self.min_sigma**2 * torch.eye(2, dtype=mean.dtype, device=mean.device)
        return mean, self.spread * covariance + floor


class MLPHead(nn.Module):
    """The five numbers (mean, two deviations, correlation) from an MLP on the flattened map.

    The first guess is a wide fovea in the middle, so that an untrained gaze is close to the plain CNN.

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features.
        num_foveae: Gaussians K per map.
        hidden: units of the hidden layer.
        max_sigma, min_sigma: range of a fovea's standard deviations, in map units, 0 < min < max.
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_foveae: int = 1,
        hidden: int = 64,
        min_sigma: float = 0.15,
        max_sigma: float = 2.0,
    ) -> None:
        super().__init__()
        check_positive("gaze", num_foveae=num_foveae, hidden=hidden, min_sigma=min_sigma)
        if max_sigma <= min_sigma:
            raise ValueError(f"gaze.max_sigma must exceed min_sigma = {min_sigma}, got {max_sigma}.")
        self.min_sigma, self.max_sigma = min_sigma, max_sigma
        height, width = map_size
        first, last = nn.Linear(in_channels * height * width, hidden), nn.Linear(hidden, 5 * num_foveae)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
        self.net = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2]."""
        numbers = self.net(features).unflatten(-1, (-1, 5))
        sigma = self.min_sigma + (self.max_sigma - self.min_sigma) * torch.sigmoid(numbers[..., 2:4])
        # |rho| <= 0.95 keeps the covariance well conditioned.
        return torch.tanh(numbers[..., :2]), covariance_from(sigma, 0.95 * torch.tanh(numbers[..., 4]))
