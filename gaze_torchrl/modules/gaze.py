"""The gaze: from a feature map to where the agent looks, and the features as seen from there."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from gaze_torchrl.functional import gaussian_map
from gaze_torchrl.modules.heads import MLPHead, MomentsHead

__all__ = ["FovealGaze", "GazeModule", "NoGaze", "soft_union"]


class FovealGaze(nn.Module):
    r"""One or several anisotropic Gaussians over the feature map.

    .. math:: g_k(p) = \exp\left(-\tfrac12 (p-\mu_k)^T \Sigma_k^{-1} (p-\mu_k)\right), \qquad
              map(p) = 1 - \prod_k (1 - g_k(p))

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features; a warning says so if the map is too coarse to point with (under 8x8).
        num_foveae: Gaussians K.
        head: ``"moments"`` (of a convolutional saliency) or ``"mlp"`` (the five numbers), or a module that maps
            features [N, C, h, w] to mean [N, K, 2] and covariance [N, K, 2, 2].
        normalize: ``"peak"`` (each fovea is 1 where it points, so an untrained, wide gaze is close to the plain
            CNN) or ``"sum"`` (the map sums to one over the cells).
        periphery: attention left outside the foveae, in [0, 1): map -> periphery + (1 - periphery) map.
        **head_options: passed on to the head (``hidden``, ``min_sigma``, ...).

    Raises:
        ValueError: for sizes that are not positive or an unknown head.

    Reference:
        "Gaze on the Prize: Shaping Visual Attention with Return-Guided Contrastive Learning", arXiv 2510.08442.
        The head, the normalisation and the floor are not described in what is public of it: they are ours.

    Example:
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
        head: Literal["moments", "mlp"] | nn.Module = "moments",
        normalize: Literal["peak", "sum"] = "peak",
        periphery: float = 0.0,
        **head_options: Any,
    ) -> None:
        super().__init__()
        _check_map(in_channels, map_size)
        if normalize not in ("peak", "sum"):
            raise ValueError(f"gaze.normalize must be 'peak' or 'sum', got {normalize!r}.")
        if not 0 <= periphery < 1 or (periphery and normalize == "sum"):
            raise ValueError(f"gaze.periphery must lie in [0, 1), and be 0 with gaze.normalize='sum'; got {periphery}.")
        if head == "moments":
            head = MomentsHead(in_channels, num_foveae, **head_options)
        elif head == "mlp":
            head = MLPHead(in_channels, map_size, num_foveae, **head_options)
        elif not isinstance(head, nn.Module):
            raise ValueError(f"gaze.head must be 'moments', 'mlp' or a module, got {head!r}.")
        self.head = head
        self.num_foveae, self.normalize, self.periphery = num_foveae, normalize, periphery

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look at a feature map.

        Args:
            features: [*, C, h, w].

        Returns:
            The map [*, h, w] in [0, 1], mean [*, K, 2] (x, y in map coordinates), covariance [*, K, 2, 2] and each
            fovea's own map [*, K, h, w], peak 1.
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


class NoGaze(nn.Module):
    """The plain CNN: every cell counts as it is.

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


class GazeModule(TensorDictModuleBase):
    """A gaze as a TensorDict module: reads ``features``, writes ``("gaze", ...)`` and ``foveated``.

    Args:
        gaze: a gaze; its ``out_names`` say what it returns: ``map`` first, then, where it has a location, ``mean``,
            ``covariance`` and ``foveae``.
        features: key of the features [*, C, h, w].
        foveated: key under which features * map [*, C, h, w] is written; None where nothing reads it, such as
            before a `GlimpseReadout`.
        gaze_key: the outputs go to ``(gaze_key, name)``.
        rl_gradient: whether the gradient of what reads the outputs trains the gaze. Off, only losses that call the
            gaze itself do, such as the contrastive one.

    Example:
        >>> from tensordict import TensorDict
        >>> module = GazeModule(FovealGaze(32, (16, 16)))
        >>> td = module(TensorDict({"features": torch.rand(2, 32, 16, 16)}, [2]))
        >>> td["gaze", "mean"].shape, td["foveated"].shape
        (torch.Size([2, 1, 2]), torch.Size([2, 32, 16, 16]))
    """

    def __init__(
        self,
        gaze: nn.Module,
        features: NestedKey = "features",
        foveated: NestedKey | None = "foveated",
        gaze_key: NestedKey = "gaze",
        rl_gradient: bool = True,
    ) -> None:
        super().__init__()
        self.gaze = gaze
        self.rl_gradient = rl_gradient
        names: tuple[str, ...] = gaze.out_names  # type: ignore[assignment]
        self.in_keys = [unravel_key(features)]
        self.foveated = None if foveated is None else unravel_key(foveated)
        self.out_keys = [unravel_key((gaze_key, name)) for name in names]
        if foveated is not None:
            self.out_keys.append(self.foveated)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the gaze and the foveated features into the tensordict."""
        features = tensordict.get(self.in_keys[0])
        outputs = self.gaze(features)
        if not self.rl_gradient:
            outputs = tuple(output.detach() for output in outputs)
        if self.foveated is not None:
            outputs = (*outputs, features * outputs[0].unsqueeze(-3))
        for key, output in zip(self.out_keys, outputs, strict=True):
            tensordict.set(key, output)
        return tensordict


def soft_union(foveae: Tensor) -> Tensor:
    """Soft union 1 - prod_k (1 - g_k) of maps [*, K, h, w] in [0, 1], as [*, h, w]."""
    first, *others = foveae.unbind(-3)
    # A loop over the few foveae: the gradient of prod() reads values (a sync) where a factor is zero.
    outside = 1 - first
    for fovea in others:
        outside = outside * (1 - fovea)
    return 1 - outside


def _check_map(in_channels: int, map_size: tuple[int, int]) -> None:
    if in_channels < 1 or len(map_size) != 2 or min(map_size) < 1:
        raise ValueError(
            f"A gaze needs in_channels >= 1 and a map of (h, w) >= 1 cells, got in_channels={in_channels}, "
            f"map_size={tuple(map_size)}."
        )
    if min(map_size) < 8:
        warnings.warn(
            f"The gaze points into a map of only {map_size[0]}x{map_size[1]} cells; under 8x8 it can hardly tell "
            "objects apart. Choose encoder=fine, or raise env.image_size.",
            stacklevel=3,
        )
