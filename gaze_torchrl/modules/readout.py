"""Readouts: from what the gaze saw to the embedding that actor and critic read."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn

from gaze_torchrl.modules.checks import check_positive, read_inputs
from gaze_torchrl.registry import register

__all__ = ["FlattenReadout", "GlimpseReadout", "KeypointReadout", "PoolReadout"]


@register("readout", "flatten")
class FlattenReadout(TensorDictModuleBase):
    """The whole foveated map, flattened, through one linear layer; then the proprioception.

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features.
        proprio_dim: size P of the proprioception, 0 for none.
        hidden: units D of the linear layer.
        foveated, proprio, embedding: the keys read and written.

    Example:
        >>> from tensordict import TensorDict
        >>> readout = FlattenReadout(32, (16, 16), proprio_dim=2)
        >>> td = TensorDict({"foveated": torch.rand(5, 32, 16, 16), "proprio": torch.rand(5, 2)}, [5])
        >>> readout(td)["embedding"].shape, readout.out_features
        (torch.Size([5, 258]), 258)
    """

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        proprio_dim: int = 0,
        hidden: int = 256,
        *,
        foveated: NestedKey = "foveated",
        proprio: NestedKey = "proprio",
        embedding: NestedKey = "embedding",
    ) -> None:
        super().__init__()
        check_positive("readout", in_channels=in_channels, hidden=hidden)
        self.net = nn.Sequential(nn.Linear(in_channels * map_size[0] * map_size[1], hidden), nn.ReLU())
        self.out_features = hidden + proprio_dim
        self.in_keys = [unravel_key(key) for key in ([foveated, proprio] if proprio_dim else [foveated])]
        self.out_keys = [unravel_key(embedding)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the embedding [*, D + P] into the tensordict."""
        foveated, *proprio = read_inputs(self, tensordict, _ADVICE)
        # Cell by cell, as encoders lay maps out: channel by channel would copy them.
        cells = foveated.movedim(-3, -1).flatten(-3)
        return tensordict.set(self.out_keys[0], torch.cat([self.net(cells), *proprio], -1))


@register("readout", "glimpse")
class GlimpseReadout(TensorDictModuleBase):
    r"""What lies under each fovea and where it is, and nothing else.

    .. math:: e = \left[\,relu(W\,[v_1 .. v_K]),\; proprio,\; \mu_k,\; \sigma_k\right], \qquad
              v_k = \frac{\sum_p g_k(p) F(p)}{\sum_p g_k(p)}

    The policy can learn only through where it looks: a gaze on the wrong thing costs return. It is also cheap,
    since no wide layer reads the flattened map.

    Args:
        in_channels: channels C of the features.
        proprio_dim: size P of the proprioception, 0 for none.
        num_foveae: Gaussians K of the gaze.
        hidden: units D of the linear layer.
        features, gaze, proprio, embedding: the keys read and written; of the gaze, its ``foveae``, ``mean`` and
            ``covariance``.

    Example:
        >>> from tensordict import TensorDict
        >>> from gaze_torchrl.modules import FovealGaze, GazeModule
        >>> td = TensorDict({"features": torch.rand(5, 32, 16, 16), "proprio": torch.rand(5, 2)}, [5])
        >>> td = GazeModule(FovealGaze(32, (16, 16), num_foveae=4))(td)
        >>> GlimpseReadout(32, proprio_dim=2, num_foveae=4)(td)["embedding"].shape
        torch.Size([5, 146])
    """

    def __init__(
        self,
        in_channels: int,
        proprio_dim: int = 0,
        num_foveae: int = 1,
        hidden: int = 128,
        *,
        features: NestedKey = "features",
        gaze: NestedKey = "gaze",
        proprio: NestedKey = "proprio",
        embedding: NestedKey = "embedding",
    ) -> None:
        super().__init__()
        check_positive("readout", in_channels=in_channels, num_foveae=num_foveae, hidden=hidden)
        self.net = nn.Sequential(nn.Linear(num_foveae * in_channels, hidden), nn.ReLU())
        self.num_foveae, self.out_features = num_foveae, hidden + 4 * num_foveae + proprio_dim
        keys = [features, (gaze, "foveae"), (gaze, "mean"), (gaze, "covariance")]
        self.in_keys = [unravel_key(key) for key in ([*keys, proprio] if proprio_dim else keys)]
        self.out_keys = [unravel_key(embedding)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the embedding [*, D + 4K + P] into the tensordict."""
        features, foveae, mean, covariance, *proprio = read_inputs(self, tensordict, _ADVICE)
        _check_foveae(mean, self.num_foveae)
        sigma = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        glimpses = self.net(pool(features, foveae).flatten(-2))
        place = torch.cat([mean, sigma], -1).flatten(-2)
        return tensordict.set(self.out_keys[0], torch.cat([glimpses, place, *proprio], -1))


@register("readout", "pool")
class PoolReadout(TensorDictModuleBase):
    r"""The mean feature under the map, and nothing about its place; then the proprioception.

    .. math:: e = \left[\,relu(W v),\; proprio\right], \qquad v = \frac{\sum_p map(p) F(p)}{\sum_p map(p)}

    Works with every gaze; with `NoGaze` it is global average pooling.

    Args:
        in_channels: channels C of the features.
        proprio_dim: size P of the proprioception, 0 for none.
        hidden: units D of the linear layer.
        features, gaze, proprio, embedding: the keys read and written; of the gaze, its ``map``.

    Example:
        >>> from tensordict import TensorDict
        >>> td = TensorDict({"features": torch.rand(5, 32, 16, 16), "gaze": {"map": torch.rand(5, 16, 16)}}, [5])
        >>> PoolReadout(32)(td)["embedding"].shape
        torch.Size([5, 128])
    """

    def __init__(
        self,
        in_channels: int,
        proprio_dim: int = 0,
        hidden: int = 128,
        *,
        features: NestedKey = "features",
        gaze: NestedKey = "gaze",
        proprio: NestedKey = "proprio",
        embedding: NestedKey = "embedding",
    ) -> None:
        super().__init__()
        check_positive("readout", in_channels=in_channels, hidden=hidden)
        self.net = nn.Sequential(nn.Linear(in_channels, hidden), nn.ReLU())
        self.out_features = hidden + proprio_dim
        keys = [features, (gaze, "map")]
        self.in_keys = [unravel_key(key) for key in ([*keys, proprio] if proprio_dim else keys)]
        self.out_keys = [unravel_key(embedding)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the embedding [*, D + P] into the tensordict."""
        features, attention, *proprio = read_inputs(self, tensordict, _ADVICE)
        pooled = pool(features, attention.unsqueeze(-3)).squeeze(-2)
        return tensordict.set(self.out_keys[0], torch.cat([self.net(pooled), *proprio], -1))


@register("readout", "keypoints")
class KeypointReadout(TensorDictModuleBase):
    """Where the gaze looks, and nothing of what is there; then the proprioception.

    It has no layer of its own. The encoder learns only through the places it makes the gaze point to.

    Args:
        proprio_dim: size P of the proprioception, 0 for none.
        num_foveae: keypoints K of the gaze.
        gaze, proprio, embedding: the keys read and written; of the gaze, its ``mean``.

    Reference:
        Levine et al., "End-to-End Training of Deep Visuomotor Policies", 2016.

    Example:
        >>> from tensordict import TensorDict
        >>> td = TensorDict({"gaze": {"mean": torch.rand(5, 8, 2)}, "proprio": torch.rand(5, 3)}, [5])
        >>> KeypointReadout(proprio_dim=3, num_foveae=8)(td)["embedding"].shape
        torch.Size([5, 19])
    """

    def __init__(
        self,
        proprio_dim: int = 0,
        num_foveae: int = 1,
        *,
        gaze: NestedKey = "gaze",
        proprio: NestedKey = "proprio",
        embedding: NestedKey = "embedding",
    ) -> None:
        super().__init__()
        check_positive("readout", num_foveae=num_foveae)
        self.num_foveae, self.out_features = num_foveae, 2 * num_foveae + proprio_dim
        keys = [(gaze, "mean")]
        self.in_keys = [unravel_key(key) for key in ([*keys, proprio] if proprio_dim else keys)]
        self.out_keys = [unravel_key(embedding)]

    @dispatch(auto_batch_size=False)
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the embedding [*, 2K + P] into the tensordict."""
        mean, *proprio = read_inputs(self, tensordict, _ADVICE)
        _check_foveae(mean, self.num_foveae)
        return tensordict.set(self.out_keys[0], torch.cat([mean.flatten(-2), *proprio], -1))


def pool(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of features [*, C, h, w] under each of K maps [*, K, h, w], as [*, K, C]."""
    weights = weights.flatten(-2)
    total = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return (weights / total) @ features.flatten(-2).transpose(-1, -2)


_ADVICE = (
    "put encoder and gaze before it, or, where the environment writes no proprioception, build it with proprio_dim=0."
)


def _check_foveae(mean: Tensor, expected: int) -> None:
    if (found := mean.shape[-2]) != expected:
        raise ValueError(f"The gaze has {found} foveae, the readout num_foveae={expected}: build it with {found}.")
