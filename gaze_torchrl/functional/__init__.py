"""Pure functions: the maths of the package, without state."""

from gaze_torchrl.functional.gaussian import axis_centers, cell_centers, covariance_from, gaussian_map
from gaze_torchrl.functional.knn import knn
from gaze_torchrl.functional.moments import spatial_moments
from gaze_torchrl.functional.returns import (
    discounted_return,
    known_return,
    lambda_return,
    reverse_scan,
    segment_end,
)
from gaze_torchrl.functional.triplet import cosine_triplet_loss

__all__ = [
    "axis_centers",
    "cell_centers",
    "cosine_triplet_loss",
    "covariance_from",
    "discounted_return",
    "gaussian_map",
    "knn",
    "known_return",
    "lambda_return",
    "reverse_scan",
    "segment_end",
    "spatial_moments",
]
