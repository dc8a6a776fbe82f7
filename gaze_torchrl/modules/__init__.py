"""Encoders, gazes and readouts: the path from pixels to the embedding that actor and critic read."""

from gaze_torchrl.modules.actor_critic import gaze_actor, value_head
from gaze_torchrl.modules.encoder import ConvEncoder, FineCNN, MapGeometry, NatureCNN
from gaze_torchrl.modules.gaze import FovealGaze, GazeModule, NoGaze
from gaze_torchrl.modules.heads import MLPHead, MomentsHead
from gaze_torchrl.modules.readout import FlattenReadout, GlimpseReadout

__all__ = [
    "ConvEncoder",
    "FineCNN",
    "FlattenReadout",
    "FovealGaze",
    "GazeModule",
    "GlimpseReadout",
    "MLPHead",
    "MapGeometry",
    "MomentsHead",
    "NatureCNN",
    "NoGaze",
    "gaze_actor",
    "value_head",
]
