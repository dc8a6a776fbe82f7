"""Keypoints: a gaze that is the softmax of linear filters, as in deep spatial autoencoders."""

from __future__ import annotations

from torch import Tensor, nn

from gaze_torchrl.modules.checks import check_positive
from gaze_torchrl.modules.gaze import soft_union, warn_if_coarse
from gaze_torchrl.modules.heads import floored_moments
from gaze_torchrl.registry import register

__all__ = ["SpatialSoftmaxGaze"]


@register("gaze", "spatial_softmax")
class SpatialSoftmaxGaze(nn.Module):
    r"""Keypoints: where K linear filters fire, as the expected place under the softmax of each.

    .. math:: p_k = softmax(\beta\, w_k^T F), \qquad \mu_k = E_{p_k}[x], \qquad
              \Sigma_k = Cov_{p_k}[x] + \sigma_{min}^2 I, \qquad g_k = p_k / \max p_k

    Other than in `FovealGaze`, a fovea is the softmax itself, of any shape and with several peaks if need be; the
    Gaussian only sums it up. The map is the soft union of the foveae.

    Args:
        in_channels: channels C of the features.
        map_size: (h, w) of the features; a warning says so if the map is too coarse to point with (under 8x8).
        num_foveae: keypoints K.
        sharpness: factor beta on the logits, > 0.
        min_sigma: smallest standard deviation, in map units ([-1, 1] spans the map), > 0.

    Raises:
        ValueError: for a number out of range.

    Reference:
        Levine et al., "End-to-End Training of Deep Visuomotor Policies", 2016; Finn et al., "Deep Spatial
        Autoencoders for Visuomotor Learning", 2016. Both read the expected places alone (`KeypointReadout`).

    Example:
        >>> import torch
        >>> attention, mean, covariance, foveae = SpatialSoftmaxGaze(32, (16, 16))(torch.rand(2, 32, 16, 16))
        >>> attention.shape, mean.shape, covariance.shape, foveae.shape
        (torch.Size([2, 16, 16]), torch.Size([2, 8, 2]), torch.Size([2, 8, 2, 2]), torch.Size([2, 8, 16, 16]))
    """

    out_names = ("map", "mean", "covariance", "foveae")

    def __init__(
        self,
        in_channels: int,
        map_size: tuple[int, int],
        num_foveae: int = 8,
        sharpness: float = 30.0,
        min_sigma: float = 0.05,
    ) -> None:
        super().__init__()
        check_positive("gaze", in_channels=in_channels, num_foveae=num_foveae, sharpness=sharpness, min_sigma=min_sigma)
        warn_if_coarse(map_size)
        self.num_foveae, self.sharpness, self.min_sigma = num_foveae, sharpness, min_sigma
        # A softmax does not see a bias.
        self.filters = nn.Linear(in_channels, num_foveae, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look at a feature map.

        Args:
            features: [*, C, h, w].

        Returns:
            The map [*, h, w] in [0, 1], mean [*, K, 2] (x, y in map coordinates), covariance [*, K, 2, 2] and each
            fovea's own map [*, K, h, w], peak 1.
        """
        logits = self.sharpness * self.filters(features.movedim(-3, -1)).movedim(-1, -3)
        mean, covariance = floored_moments(logits, 1.0, self.min_sigma)
        foveae = (logits - logits.amax((-2, -1), keepdim=True)).exp()
        return soft_union(foveae), mean, covariance, foveae
