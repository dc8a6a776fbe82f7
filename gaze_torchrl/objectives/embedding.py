"""What a contrastive loss compares: one vector per feature map, as the gaze sees it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["GazeEmbedding"]


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
