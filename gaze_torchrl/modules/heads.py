"""Gaze heads: from a feature map to the mean and covariance of K Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gaze_torchrl.functional import covariance_from, spatial_moments
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.registry import register

__all__ = ["MLPHead", "MomentsHead", "TransformerHead", "floored_moments"]


@register("gaze/head", "moments")
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

    Example:
        >>> mean, covariance = MomentsHead(32, num_foveae=4)(torch.rand(2, 32, 16, 16))
        >>> mean.shape, covariance.shape
        (torch.Size([2, 4, 2]), torch.Size([2, 4, 2, 2]))
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
        check_positive("gaze", in_channels=in_channels, num_foveae=num_foveae)
        check_positive("gaze.head", hidden=hidden, sharpness=sharpness, spread=spread, min_sigma=min_sigma)
        self.num_foveae, self.sharpness, self.spread, self.min_sigma = num_foveae, sharpness, spread, min_sigma
        self.saliency = nn.Sequential(nn.Conv2d(in_channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, num_foveae, 1))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2]."""
        return floored_moments(self.sharpness * self.saliency(features), self.spread, self.min_sigma)


@register("gaze/head", "mlp")
class MLPHead(nn.Module):
    """The five numbers (mean, two deviations, correlation) from an MLP on the flattened map.

    The first guess is a wide fovea in the middle, so that an untrained gaze is close to the plain CNN.

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features.
        num_foveae: Gaussians K per map.
        hidden: units of the hidden layer.
        min_sigma, max_sigma: range of a fovea's standard deviations, in map units, 0 < min < max.

    Example:
        >>> mean, covariance = MLPHead(32, (16, 16))(torch.rand(2, 32, 16, 16))
        >>> mean.shape, covariance.shape
        (torch.Size([2, 1, 2]), torch.Size([2, 1, 2, 2]))
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
        check_positive("gaze", in_channels=in_channels, num_foveae=num_foveae)
        check_positive("gaze.head", hidden=hidden, min_sigma=min_sigma)
        if not max_sigma > min_sigma:
            raise ValueError(f"gaze.head.max_sigma must exceed min_sigma = {min_sigma}, got {max_sigma}.")
        self.num_foveae, self.min_sigma, self.max_sigma = num_foveae, min_sigma, max_sigma
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


@register("gaze/head", "transformer")
class TransformerHead(nn.Module):
    r"""Moments of what K queries attend to, after each has read the whole image.

    In every layer the learned queries gather from the cells x (projected, with a learned encoding of their place) by
    attention; a fovea then takes the moments of its query's last attention,

    .. math:: p_k = softmax(\beta\, q_k^T x / \sqrt{d}), \qquad \mu_k = E_{p_k}[x], \qquad
              \Sigma_k = s\, Cov_{p_k}[x] + \sigma_{min}^2 I.

    What makes a cell worth looking at may thus depend on the rest of the image. It starts, like `MomentsHead`, as
    moments of an attention with a gain and not as a wide fovea in the middle: the first gaze already follows the
    image, and no layer has to learn where things are. Cells do not attend to each other: their number squared would
    cost several times the encoder.

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features.
        num_foveae: Gaussians K per map, one query each.
        width: channels d of queries and cells, a multiple of num_heads.
        num_heads: attention heads per layer.
        num_layers: layers in which the queries read the image.
        sharpness: factor beta on the last attention's logits, > 0.
        spread: factor s on the covariance of the attention, > 0.
        min_sigma: smallest standard deviation of a fovea, in map units ([-1, 1] spans the map), > 0.

    Raises:
        ValueError: for a number out of range, or a width that num_heads does not divide.

    Reference:
        Carion et al., "End-to-End Object Detection with Transformers", 2020 (learned queries that read the cells).

    Example:
        >>> mean, covariance = TransformerHead(32, (16, 16), num_foveae=4)(torch.rand(2, 32, 16, 16))
        >>> mean.shape, covariance.shape
        (torch.Size([2, 4, 2]), torch.Size([2, 4, 2, 2]))
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_foveae: int = 1,
        width: int = 32,
        num_heads: int = 2,
        num_layers: int = 1,
        sharpness: float = 10.0,
        spread: float = 3.0,
        min_sigma: float = 0.15,
    ) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels, num_foveae=num_foveae)
        check_positive("gaze.head", width=width, num_heads=num_heads, num_layers=num_layers)
        check_positive("gaze.head", sharpness=sharpness, spread=spread, min_sigma=min_sigma)
        if width % num_heads:
            raise ValueError(f"gaze.head.width must be a multiple of num_heads = {num_heads}, got {width}.")
        self.num_foveae, self.sharpness, self.spread, self.min_sigma = num_foveae, sharpness, spread, min_sigma
        self.project = nn.Linear(in_channels, width)
        self.place = nn.Parameter(0.02 * torch.randn(map_size[0] * map_size[1], width))
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(num_foveae, width))
        self.layers = nn.ModuleList(_QueryLayer(width, num_heads) for _ in range(num_layers))
        self.last_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2]."""
        cells = self.norm(self.project(features.flatten(-2).mT) + self.place)
        queries = self.queries.expand(features.shape[0], -1, -1)  # len() would fix the batch of an exported program
        for layer in self.layers:
            queries = layer(queries, cells)
        logits = self.sharpness / cells.shape[-1] ** 0.5 * (self.last_norm(queries) @ cells.mT)
        return floored_moments(logits.unflatten(-1, features.shape[-2:]), self.spread, self.min_sigma)


class _QueryLayer(nn.Module):
    """Queries [N, K, d] gather from cells [N, P, d] by attention, then think it over."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, queries: Tensor, cells: Tensor) -> Tensor:
        before, after = self.norms
        queries = queries + self.attention(before(queries), cells, cells, need_weights=False)[0]
        return queries + self.mlp(after(queries))


def floored_moments(logits: Tensor, spread: float, min_sigma: float) -> tuple[Tensor, Tensor]:
    """Mean [*, 2] and positive definite covariance [*, 2, 2] of the softmax of logits [*, h, w].

    Args:
        logits: [*, h, w].
        spread: factor on the covariance.
        min_sigma: standard deviation of what is added to it, in map units.
    """
    mean, covariance = spatial_moments(logits)
    floor = min_sigma**2 * torch.eye(2, dtype=mean.dtype, device=mean.device)
    return mean, spread * covariance + floor
