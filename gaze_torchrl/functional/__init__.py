"""Pure functions: the maths of the package, without state."""

from gaze_torchrl.functional.augment import color_jitter, overlay, random_conv, random_shift
from gaze_torchrl.functional.gaussian import axis_centers, cell_centers, covariance_from, gaussian_map
from gaze_torchrl.functional.info_nce import info_nce
from gaze_torchrl.functional.knn import knn, neighbor_agreement
from gaze_torchrl.functional.moments import map_centroid, spatial_moments
from gaze_torchrl.functional.rank import mid_rank
from gaze_torchrl.functional.rank_n_contrast import rank_n_contrast
from gaze_torchrl.functional.regularizers import gaze_drift, gaze_spread, map_entropy
from gaze_torchrl.functional.residual import residual
from gaze_torchrl.functional.returns import (
    discounted_return,
    known_return,
    lambda_return,
    reverse_scan,
    segment_end,
    segment_start,
)
from gaze_torchrl.functional.triplet import cosine_triplet_loss, soft_margin_triplet_loss

__all__ = [
    "axis_centers",
    "cell_centers",
    "color_jitter",
    "cosine_triplet_loss",
    "covariance_from",
    "discounted_return",
    "gaussian_map",
    "gaze_drift",
    "gaze_spread",
    "info_nce",
    "knn",
    "known_return",
    "lambda_return",
    "map_centroid",
    "map_entropy",
    "mid_rank",
    "neighbor_agreement",
    "overlay",
    "random_conv",
    "random_shift",
    "rank_n_contrast",
    "residual",
    "reverse_scan",
    "segment_end",
    "segment_start",
    "soft_margin_triplet_loss",
    "spatial_moments",
]
