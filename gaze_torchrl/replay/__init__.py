"""Return labels, the feature bank, the miner, and the replay-buffer transform that joins them."""

from gaze_torchrl.replay.augment import Augmentation, ColorJitter, Overlay, RandomConv, RandomShift
from gaze_torchrl.replay.bank import FeatureBank
from gaze_torchrl.replay.episode_labels import EpisodeReturn, Success
from gaze_torchrl.replay.frames import FrameReplay, NStep
from gaze_torchrl.replay.keys import FullKeys, JointKeys, PooledKeys, ProjectedKeys, ProprioKeys
from gaze_torchrl.replay.labels import Label, ReturnToGo, ValueTarget, label_steps
from gaze_torchrl.replay.miner import NeighborMiner, Triplets
from gaze_torchrl.replay.miner_controls import RandomMiner, ShuffledReturnsMiner
from gaze_torchrl.replay.miner_rules import (
    AnchorRelativeMiner,
    ClassConsistentMiner,
    QuantileMiner,
    ThresholdMiner,
    VisualMiner,
)
from gaze_torchrl.replay.normalize import RankNormalize, ResidualNormalize, RunningQuantileNormalize
from gaze_torchrl.replay.triplet_replay import TripletReplay

__all__ = [
    "AnchorRelativeMiner",
    "Augmentation",
    "ClassConsistentMiner",
    "ColorJitter",
    "EpisodeReturn",
    "FeatureBank",
    "FrameReplay",
    "FullKeys",
    "JointKeys",
    "Label",
    "NStep",
    "NeighborMiner",
    "Overlay",
    "PooledKeys",
    "ProjectedKeys",
    "ProprioKeys",
    "QuantileMiner",
    "RandomConv",
    "RandomMiner",
    "RandomShift",
    "RankNormalize",
    "ResidualNormalize",
    "ReturnToGo",
    "RunningQuantileNormalize",
    "ShuffledReturnsMiner",
    "Success",
    "ThresholdMiner",
    "TripletReplay",
    "Triplets",
    "ValueTarget",
    "VisualMiner",
    "label_steps",
]
