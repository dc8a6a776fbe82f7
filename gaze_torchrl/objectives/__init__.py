"""The contrastive loss of the gaze, and its composition with TorchRL's losses."""

from gaze_torchrl.objectives.auxiliary import AuxiliaryLossMixin, GazePPOLoss, GazeSACLoss, with_auxiliary
from gaze_torchrl.objectives.contrastive import ContrastiveLoss
from gaze_torchrl.objectives.curl import CURLLoss
from gaze_torchrl.objectives.info_nce import InfoNCEContrastiveLoss
from gaze_torchrl.objectives.metric_learning import MetricLearningContrastiveLoss
from gaze_torchrl.objectives.regularizer import GazeRegularizer
from gaze_torchrl.objectives.triplet import SoftMarginContrastiveLoss, TripletContrastiveLoss

__all__ = [
    "AuxiliaryLossMixin",
    "CURLLoss",
    "ContrastiveLoss",
    "GazePPOLoss",
    "GazeRegularizer",
    "GazeSACLoss",
    "InfoNCEContrastiveLoss",
    "MetricLearningContrastiveLoss",
    "SoftMarginContrastiveLoss",
    "TripletContrastiveLoss",
    "with_auxiliary",
]
