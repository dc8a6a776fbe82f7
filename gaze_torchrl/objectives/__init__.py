"""The contrastive loss of the gaze, and its composition with TorchRL's losses."""

from gaze_torchrl.objectives.auxiliary import AuxiliaryLossMixin, GazePPOLoss, with_auxiliary
from gaze_torchrl.objectives.contrastive import TripletContrastiveLoss

__all__ = ["AuxiliaryLossMixin", "GazePPOLoss", "TripletContrastiveLoss", "with_auxiliary"]
