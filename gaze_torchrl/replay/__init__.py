"""Return labels, the feature bank, the miner, and the replay-buffer transform that joins them."""

from gaze_torchrl.replay.bank import FeatureBank
from gaze_torchrl.replay.labels import Label, ReturnToGo, ValueTarget, label_steps
from gaze_torchrl.replay.miner import QuantileMiner, Triplets
from gaze_torchrl.replay.triplet_replay import TripletReplay

__all__ = [
    "FeatureBank",
    "Label",
    "QuantileMiner",
    "ReturnToGo",
    "TripletReplay",
    "Triplets",
    "ValueTarget",
    "label_steps",
]
