"""Normalisers: labels on a scale that does not depend on the task's rewards, or less what the agent's state explains.

A normaliser whose attribute ``reads`` is ``"proprio"`` is called with the proprioception, too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gaze_torchrl.functional import mid_rank, residual
from gaze_torchrl.registry import register

__all__ = ["RankNormalize", "ResidualNormalize", "RunningQuantileNormalize"]


@register("normalize", "rank")
class RankNormalize(nn.Module):
    """Labels become their mid-ranks among the known ones: shares in [0, 1], equal for equal labels.

    Example:
        >>> RankNormalize()(torch.tensor([3.0, 100.0, 3.0, 0.0]), torch.tensor([True, True, True, False]))
        tensor([0.3333, 0.8333, 0.3333, 0.0000])
    """

    def forward(self, label: Tensor, known: Tensor) -> Tensor:
        """Normalise labels.

        Args:
            label: [N] float.
            known: [N] bool.

        Returns:
            [N]; the rank an unknown label would have says nothing.
        """
        return mid_rank(label, known)


@register("normalize", "running_quantile")
class RunningQuantileNormalize(nn.Module):
    r"""Labels scaled by a running range of the known ones, to about [0, 1].

    .. math:: \tilde{y} = \frac{y - q_{low}}{\max(q_{high} - q_{low},\ m)}, \qquad
              q \leftarrow d\, q + (1 - d)\, \mathrm{quantile}(y)

    where q starts at the first known labels' quantiles. Quantiles, since returns have outliers; a running mean, since
    the policy's returns drift; and a least range m, since returns that hardly differ are not worth blowing up.

    Args:
        decay: d, weight of the past at each call (TripletReplay calls it once per mining), in [0, 1).
        low, high: quantiles, 0 <= low < high <= 1.
        min_range: m, in units of the label, > 0.

    Raises:
        ValueError: if a number is out of range.

    Reference:
        Hafner et al., Mastering Diverse Domains through World Models, arXiv 2301.04104 (scaling of returns).

    Example:
        >>> normalize = RunningQuantileNormalize(low=0.0, high=1.0)
        >>> normalize(torch.tensor([0.0, 5.0, 10.0]), torch.ones(3, dtype=torch.bool))
        tensor([0.0000, 0.5000, 1.0000])
    """

    bounds: Tensor

    def __init__(self, decay: float = 0.9, low: float = 0.05, high: float = 0.95, min_range: float = 1.0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"normalize.decay must lie in [0, 1), got {decay}.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"Expected 0 <= normalize.low < normalize.high <= 1, got low={low}, high={high}.")
        if not min_range > 0:
            raise ValueError(f"normalize.min_range must be positive, got {min_range}.")
        self.decay, self.quantiles, self.min_range = decay, (low, high), min_range
        # NaN until a label is known.
        self.register_buffer("bounds", torch.full((2,), torch.nan))

    @torch.no_grad()
    def forward(self, label: Tensor, known: Tensor) -> Tensor:
        """Update the range and normalise labels.

        Args:
            label: [N] float.
            known: [N] bool; without a known label the range stays.

        Returns:
            [N]; the labels as they are as long as none was ever known.
        """
        past = self.bounds.to(label.device)
        quantiles = past.new_tensor(self.quantiles)
        found = torch.nanquantile(label.masked_fill(~known, torch.nan).to(past.dtype), quantiles)
        bounds = torch.where(past.isnan(), found, self.decay * past + (1 - self.decay) * found)
        self.bounds = torch.where(found.isnan(), past, bounds)
        low, high = self.bounds.nan_to_num(0).to(label.dtype)
        span = torch.where(self.bounds.isnan().any(), 1, (high - low).clamp_min(self.min_range))
        return (label - low) / span


@register("normalize", "residual")
class ResidualNormalize(nn.Module):
    """Labels less what the proprioception explains of them, over the bank: see `residual`.

    Where the agent is explains much of its return, and is nothing that a gaze has to find; the rest is in the picture.
    Steps of an episode are alike: what counts is that the bank holds many more episodes than the state has numbers, for
    else its path explains what it got by chance.

    Args:
        proprio_dim: size P of the proprioception, at least 1.
        ridge: penalty of the fit, > 0, beside one for what few labels would fit by chance.

    Raises:
        ValueError: if there is no proprioception, or ``ridge`` is not positive.

    Example:
        >>> place = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
        >>> label = 4 * place[:, 0] + torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(250)
        >>> left = ResidualNormalize(1)(label, torch.ones(1000, dtype=torch.bool), place)
        >>> label[:4], left[:4].round(decimals=1) + 0.0
        (tensor([-4.,  4., -3.,  5.]), tensor([0., 0., 1., 1.]))
    """

    reads = "proprio"

    def __init__(self, proprio_dim: int, ridge: float = 1e-3) -> None:
        super().__init__()
        if proprio_dim < 1:
            raise ValueError(
                "normalize=residual needs proprioception, which this environment does not give: set normalize=none."
            )
        if not ridge > 0:
            raise ValueError(f"normalize.ridge must be positive, got {ridge}.")
        self.ridge = ridge

    @torch.no_grad()
    def forward(self, label: Tensor, known: Tensor, proprio: Tensor) -> Tensor:
        """What is left of labels.

        Args:
            label: [N] float.
            known: [N] bool; the fit is to these.
            proprio: [N, P] float, the agent's own state.

        Returns:
            [N], with the mean of the known labels.
        """
        return residual(label, proprio, known, self.ridge)
