"""FiLM: proprioception tells the gaze what to look for."""

from __future__ import annotations

from torch import Tensor, nn

from gaze_torchrl.modules.checks import check_positive

__all__ = ["FiLM"]


class FiLM(nn.Module):
    r"""Scale and shift the channels of a feature map by what the proprioception says.

    .. math:: F'_c = (1 + \gamma_c)\, F_c + \beta_c, \qquad (\gamma, \beta) = MLP(proprio)

    The last layer starts at zero, so that it starts as the identity.

    Args:
        in_channels: channels C of the features.
        proprio_dim: size P of the proprioception.
        hidden: units of the hidden layer.

    Raises:
        ValueError: for a size that is not positive.

    Reference:
        Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018.

    Example:
        >>> import torch
        >>> features = torch.rand(5, 32, 16, 16)
        >>> bool((FiLM(32, proprio_dim=2)(features, torch.rand(5, 2)) == features).all())
        True
    """

    def __init__(self, in_channels: int, proprio_dim: int, hidden: int = 32) -> None:
        super().__init__()
        if proprio_dim < 1:
            raise ValueError(
                f"gaze.condition needs proprioception, got proprio_dim = {proprio_dim}: set gaze.condition=false, or "
                "choose an environment with `proprio`."
            )
        check_positive("gaze", in_channels=in_channels, hidden=hidden)
        last = nn.Linear(hidden, 2 * in_channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(nn.Linear(proprio_dim, hidden), nn.ReLU(), last)

    def forward(self, features: Tensor, proprio: Tensor) -> Tensor:
        """Features [*, C, h, w] and proprioception [*, P] to features [*, C, h, w]."""
        scale, shift = self.net(proprio)[..., None, None].chunk(2, -3)
        return features + scale * features + shift
