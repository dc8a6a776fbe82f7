"""What a contrastive loss compares: one vector per feature map, as the gaze sees it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gaze_torchrl.functional import map_centroid
from gaze_torchrl.modules.readout import pool

__all__ = ["GazeEmbedding", "GlimpseEmbedding"]


class GazeEmbedding(nn.Module):
    r"""Features under the gaze, as one vector.

    .. math:: pooled = \sum_p map(p)\,(F(p) - \bar{F}(p)), \qquad flat = \left[map(p)\,(F(p) - \bar{F}(p))\right]_p

    F-bar is the mean over the valid members of the batch: features behind a ReLU share a large component that would
    make all cosines equal. Pooling over space keeps the gaze from meeting a loss by moving instead of looking: two
    narrow foveae in different places make flat embeddings orthogonal whatever they show.

    Args:
        kind: ``"pooled"``, ``"flat"``, or ``"projected"``: a trainable layer of ReLU and a linear one on the pooled.
        center: subtract F-bar.
        in_channels: channels C of the features; read by ``"projected"`` alone.
        projection: units of both layers of the projection.

    Reference:
        The projection: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020.

    Example:
        >>> import torch
        >>> embed = GazeEmbedding("pooled", center=False)
        >>> embed(torch.ones(3, 5, 8, 4, 4), torch.full((3, 5, 4, 4), 0.5), torch.ones(5, dtype=torch.bool))[0, 0, 0]
        tensor(8.)
    """

    def __init__(
        self,
        kind: Literal["pooled", "flat", "projected"] = "pooled",
        center: bool = True,
        in_channels: int = 0,
        projection: int = 64,
    ) -> None:
        super().__init__()
        self.kind, self.center = kind, center
        self.projection: nn.Module = nn.Identity()
        if kind == "projected":
            first, last = nn.Linear(in_channels, projection), nn.Linear(projection, projection)
            self.projection = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, features: Tensor, attention: Tensor, valid: Tensor) -> Tensor:
        """Embed the members of n triplets.

        Args:
            features: [3, n, C, h, w], finite.
            attention: the maps, [3, n, h, w].
            valid: triplets that count for the centre, [n], bool.

        Returns:
            Embeddings [3, n, D], with D = C pooled, C h w flat, ``projection`` projected.
        """
        # Products of matrices as they lie in memory, channels last: einsum would copy the features first.
        if self.center:
            weight = valid.to(features.dtype) / (len(features) * valid.sum()).clamp_min(1)
            rows = features.movedim(-3, -1).flatten(2).flatten(0, 1)
            features = features - (weight.repeat(len(features)) @ rows).view(*features.shape[-2:], -1).movedim(-1, 0)
        if self.kind == "flat":
            return (features * attention.unsqueeze(-3)).flatten(-3)
        return self.projection((features.flatten(-2) @ attention.flatten(-2).unsqueeze(-1)).squeeze(-1))


class GlimpseEmbedding(nn.Module):
    r"""What lies under each fovea, where that is, and the proprioception, through a trainable MLP of two layers.

    .. math:: z = MLP\left[v_1 .. v_K,\; \mu_1 .. \mu_K,\; proprio\right], \qquad
              v_k = \frac{\sum_p g_k(p) F(p)}{\sum_p g_k(p)}, \quad \mu_k = \frac{\sum_p g_k(p)\, p}{\sum_p g_k(p)}

    less the mean of z over the valid members. Where a thing is often matters more to the return than how it looks: an
    embedding without places cannot tell a near target from a far one, and gives the gaze no reason to be on either.

    Args:
        in_channels: channels C of the features.
        num_maps: maps K per image: foveae, or 1.
        proprio_dim: size P of the proprioception, 0 for none.
        hidden: units of the layer of ReLU.
        projection: size D of the embedding.
        center: subtract the mean.

    Example:
        >>> import torch
        >>> embed = GlimpseEmbedding(8, num_maps=2, proprio_dim=3, projection=64)
        >>> valid = torch.ones(5, dtype=torch.bool)
        >>> embed(torch.rand(3, 5, 8, 4, 4), torch.rand(3, 5, 2, 4, 4), valid, torch.rand(3, 5, 3)).shape
        torch.Size([3, 5, 64])
    """

    def __init__(
        self,
        in_channels: int,
        num_maps: int = 1,
        proprio_dim: int = 0,
        hidden: int = 128,
        projection: int = 64,
        center: bool = True,
    ) -> None:
        super().__init__()
        self.center = center
        first = nn.Linear((in_channels + 2) * num_maps + proprio_dim, hidden)
        self.net = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, projection))

    def forward(self, features: Tensor, attention: Tensor, valid: Tensor, *proprio: Tensor) -> Tensor:
        """Embed the members of n triplets.

        Args:
            features: [3, n, C, h, w], finite.
            attention: the maps, at least 0, [3, n, K, h, w]; or, where K = 1, [3, n, h, w].
            valid: triplets that count for the centre, [n], bool.
            *proprio: [3, n, P], if there is any.

        Returns:
            Embeddings [3, n, D].
        """
        maps = attention if attention.ndim == features.ndim else attention.unsqueeze(-3)
        seen = [pool(features, maps), map_centroid(maps)]
        embedding = self.net(torch.cat([*(one.flatten(-2) for one in seen), *proprio], -1))
        if self.center:
            weight = valid.to(embedding.dtype) / (len(embedding) * valid.sum()).clamp_min(1)
            embedding = embedding - (weight.unsqueeze(-1) * embedding).sum((0, 1))
        return embedding
