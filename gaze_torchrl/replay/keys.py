"""Keys: what the miner compares steps by, compact enough to search thousands of them.

A key module reads ``"features"``, or the columns of each step that its attribute ``reads`` names; the miner compares
keys by ``"cosine"``, or by what the attribute ``metric`` says (see `knn`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gaze_torchrl.registry import register

__all__ = ["FullKeys", "JointKeys", "PooledKeys", "ProjectedKeys", "ProprioKeys"]


@register("key", "pooled")
class PooledKeys(nn.Module):
    """Features averaged over the cells of a coarse grid: what is seen, and roughly where.

    Args:
        grid: cells per side, at least 1; with 1, what is seen wherever it is.

    Raises:
        ValueError: if ``grid`` is below 1.

    Example:
        >>> PooledKeys()(torch.rand(3, 32, 16, 16)).shape
        torch.Size([3, 512])
    """

    def __init__(self, grid: int = 4) -> None:
        super().__init__()
        if grid < 1:
            raise ValueError(f"key.grid must be at least 1, got {grid}.")
        self.grid = grid

    def forward(self, features: Tensor) -> Tensor:
        """Keys of steps.

        Args:
            features: [N, C, h, w], floating point.

        Returns:
            [N, C * grid * grid], float32.
        """
        return F.adaptive_avg_pool2d(features.float(), self.grid).flatten(1)


@register("key", "projected")
class ProjectedKeys(nn.Module):
    r"""Random Gaussian projection of the features, which about keeps their angles and distances.

    .. math:: key = P\,x, \qquad P_{ij} \sim \mathcal N(0, 1 / dim),

    drawn once; the error of a cosine falls as :math:`1 / \sqrt{dim}`, whatever the size of the map.

    Args:
        in_channels: channels C of the features.
        map_size: their height and width (h, w), in cells.
        dim: numbers per key, at least 1.
        grid: average the features over grid x grid cells first, at least 1; None projects the whole map.
        seed: of the projection.

    Raises:
        ValueError: if ``dim`` or ``grid`` is below 1.

    Reference:
        Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984; Achlioptas,
        Database-friendly random projections, 2003.

    Example:
        >>> ProjectedKeys(32, (16, 16), dim=64)(torch.rand(3, 32, 16, 16)).shape
        torch.Size([3, 64])
    """

    matrix: Tensor

    def __init__(
        self, in_channels: int, map_size: tuple[int, int], dim: int = 256, grid: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"key.dim must be at least 1, got {dim}.")
        self.describe = FullKeys() if grid is None else PooledKeys(grid)
        cells = map_size[0] * map_size[1] if grid is None else grid * grid
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("matrix", torch.randn(in_channels * cells, dim, generator=generator) / dim**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Keys of steps.

        Args:
            features: [N, C, h, w], floating point.

        Returns:
            [N, dim], float32.
        """
        return self.describe(features) @ self.matrix


@register("key", "full")
class FullKeys(nn.Module):
    """The whole feature map: exact, but a bank of such keys is twice as large as that of the features.

    Example:
        >>> FullKeys()(torch.rand(3, 32, 16, 16)).shape
        torch.Size([3, 8192])
    """

    def forward(self, features: Tensor) -> Tensor:
        """Keys of steps.

        Args:
            features: [N, C, h, w], floating point.

        Returns:
            [N, C * h * w], float32.
        """
        return features.float().flatten(1)


@register("key", "proprio")
class ProprioKeys(nn.Module):
    """The proprioception: neighbours are steps in which the agent is in the same state, whatever it sees.

    What tells their returns apart must then be in the picture, and not be the agent itself. The miner compares them by
    distance, each number by its own spread.

    Args:
        proprio_dim: size P of the proprioception, at least 1.

    Raises:
        ValueError: if there is none.

    Example:
        >>> ProprioKeys(2)(torch.rand(3, 2)).shape
        torch.Size([3, 2])
    """

    reads = ("proprio",)
    metric = "euclidean"

    def __init__(self, proprio_dim: int) -> None:
        super().__init__()
        if proprio_dim < 1:
            raise ValueError("key=proprio needs proprioception, which this environment does not give: set key=pooled.")

    def forward(self, proprio: Tensor) -> Tensor:
        """Keys of steps.

        Args:
            proprio: [N, P], floating point.

        Returns:
            [N, P], float32.
        """
        return proprio.float()


@register("key", "joint")
class JointKeys(nn.Module):
    """Features and proprioception at once: neighbours look alike, and the agent is in about the same state.

    A projection of the features (`ProjectedKeys`), and the proprioception as many times over as makes it as long: the
    miner scales each number by its own spread, and both count the same.

    Args:
        in_channels: channels C of the features.
        map_size: their height and width (h, w), in cells.
        proprio_dim: size P of the proprioception, at least 1.
        dim: numbers of the projection, at least P.
        grid: average the features over grid x grid cells first, at least 1; None projects the whole map.
        seed: of the projection.

    Raises:
        ValueError: if there is no proprioception, or an option is out of range.

    Example:
        >>> JointKeys(32, (16, 16), 2)(torch.rand(3, 32, 16, 16), torch.rand(3, 2)).shape
        torch.Size([3, 128])
    """

    reads = ("features", "proprio")
    metric = "euclidean"

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        proprio_dim: int,
        dim: int = 64,
        grid: int | None = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if proprio_dim < 1:
            raise ValueError("key=joint needs proprioception, which this environment does not give: set key=pooled.")
        if dim < proprio_dim:
            raise ValueError(f"key.dim must be at least the proprioception's size, {proprio_dim}, got {dim}.")
        self.project = ProjectedKeys(in_channels, map_size, dim, grid, seed)
        self.times = dim // proprio_dim

    def forward(self, features: Tensor, proprio: Tensor) -> Tensor:
        """Keys of steps.

        Args:
            features: [N, C, h, w], floating point.
            proprio: [N, P], floating point.

        Returns:
            [N, dim + dim // P * P], float32.
        """
        return torch.cat([self.project(features), proprio.float().repeat(1, self.times)], -1)
