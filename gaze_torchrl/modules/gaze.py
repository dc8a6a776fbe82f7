"""The foveal gaze: from a feature map to Gaussians that say where the agent looks."""

from __future__ import annotations

import warnings
from typing import Literal

from torch import Tensor, nn

from gaze_torchrl.functional import gaussian_map
from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.modules.heads import MomentsHead
from gaze_torchrl.registry import register

__all__ = ["FovealGaze", "soft_union", "warn_if_coarse"]


@register("gaze", "multi_foveal", num_foveae=8)
@register("gaze", "foveal")
class FovealGaze(nn.Module):
    r"""One or several anisotropic Gaussians over the feature map.

    .. math:: g_k(p) = \exp\left(-\tfrac{1}{2} (p-\mu_k)^T \Sigma_k^{-1} (p-\mu_k)\right), \qquad
              map(p) = 1 - \prod_k (1 - g_k(p))

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features; a warning says so if the map is too coarse to point with (under 8x8).
        num_foveae: Gaussians K.
        head: maps features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2], and has the attribute
            ``num_foveae``; a `MomentsHead` if None.
        normalize: ``"peak"`` (each fovea is 1 at its mean, so an untrained, wide gaze is close to the plain CNN) or
            ``"sum"`` (the map sums to one over the cells). With a sum, what `FlattenReadout` embeds is about h w times
            smaller, 256 times at 16x16 cells; `PoolReadout` divides by the sum anyway.
        periphery: attention left outside the foveae, in [0, 1): map -> periphery + (1 - periphery) map.
            `GlimpseReadout` and `KeypointReadout` do not read the map: neither this nor ``normalize`` is seen by them.

    Raises:
        TypeError: if the head is no module.
        ValueError: for a number out of range, or a head with another number of foveae.

    Reference:
        "Gaze on the Prize: Shaping Visual Attention with Return-Guided Contrastive Learning", arXiv 2510.08442.
        The head, the normalisation and the floor are not described in what is public of it: they are ours.

    Example:
        >>> import torch
        >>> gaze = FovealGaze(32, (16, 16), num_foveae=4)
        >>> attention, mean, covariance, foveae = gaze(torch.rand(2, 32, 16, 16))
        >>> attention.shape, mean.shape, covariance.shape, foveae.shape
        (torch.Size([2, 16, 16]), torch.Size([2, 4, 2]), torch.Size([2, 4, 2, 2]), torch.Size([2, 4, 16, 16]))
    """

    out_names = ("map", "mean", "covariance", "foveae")

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_foveae: int = 1,
        head: nn.Module | None = None,
        normalize: Literal["peak", "sum"] = "peak",
        periphery: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels, num_foveae=num_foveae)
        warn_if_coarse(map_size)
        if normalize not in ("peak", "sum"):
            raise ValueError(f"gaze.normalize must be 'peak' or 'sum', got {normalize!r}.")
        if not 0 <= periphery < 1 or (periphery and normalize == "sum"):
            raise ValueError(f"gaze.periphery must lie in [0, 1), and be 0 with gaze.normalize='sum'; got {periphery}.")
        self.head = MomentsHead(in_channels, num_foveae=num_foveae) if head is None else head
        if not isinstance(self.head, nn.Module):
            raise TypeError(f"gaze.head must be a module such as MomentsHead(in_channels), got {head!r}.")
        if (found := getattr(self.head, "num_foveae", None)) != num_foveae:
            raise ValueError(
                f"gaze.num_foveae is {num_foveae}, but {type(self.head).__name__} has num_foveae = {found}: build the "
                f"head with num_foveae={num_foveae}."
            )
        self.num_foveae, self.normalize, self.periphery = num_foveae, normalize, periphery

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look at a feature map.

        Args:
            features: [*, C, h, w].

        Returns:
            The map [*, h, w] in [0, 1], mean [*, K, 2] (x, y in map coordinates), covariance [*, K, 2, 2] and each
            fovea's own map [*, K, h, w]: 1 at its mean, and a little less at the nearest cell unless the mean is its
            centre.
        """
        lead, (height, width) = features.shape[:-3], features.shape[-2:]
        mean, covariance = self.head(features.reshape(-1, *features.shape[-3:]))
        foveae = gaussian_map(mean, covariance, height, width)
        attention = soft_union(foveae)
        if self.normalize == "sum":
            attention = attention / attention.sum((-2, -1), keepdim=True)
        attention = self.periphery + (1 - self.periphery) * attention
        mean, covariance, foveae, attention = (
            tensor.reshape(*lead, *tensor.shape[1:]) for tensor in (mean, covariance, foveae, attention)
        )
        return attention, mean, covariance, foveae


def soft_union(foveae: Tensor) -> Tensor:
    """Soft union 1 - prod_k (1 - g_k) of maps [*, K, h, w] in [0, 1], as [*, h, w]."""
    first, *others = foveae.unbind(-3)
    # A loop over the few foveae: the gradient of prod() reads values (a sync) where a factor is zero.
    outside = 1 - first
    for fovea in others:
        outside = outside * (1 - fovea)
    return 1 - outside


def warn_if_coarse(map_size: tuple[int, int]) -> None:
    """Check the (h, w) of a map that a gaze points into, and warn if it can hardly tell objects apart.

    Raises:
        ValueError: if it has no cells.
    """
    if len(map_size) != 2 or min(map_size) < 1:
        raise ValueError(f"A gaze needs a map of (h, w) >= 1 cells, got map_size={tuple(map_size)}.")
    if min(map_size) < 8:
        warnings.warn(
            f"The gaze points into a map of only {map_size[0]}x{map_size[1]} cells; under 8x8 it can hardly tell "
            "objects apart. Choose encoder=fine, or raise env.image_size.",
            stacklevel=3,
        )
