"""Encoders, gazes and readouts: the path from pixels to the embedding that actor and critic read."""

from gaze_torchrl.modules.actor_critic import Trunk, gaze_actor, qvalue_head, value_head
from gaze_torchrl.modules.attention import AttentionPoolGaze, MaskGaze, PatchGaze
from gaze_torchrl.modules.encoder import ConvEncoder, DrQCNN, FineCNN, NatureCNN, PlainCNN
from gaze_torchrl.modules.film import FiLM
from gaze_torchrl.modules.fixed import FixedCenterGaze, NoGaze
from gaze_torchrl.modules.gaze import FovealGaze
from gaze_torchrl.modules.gaze_module import GazeModule
from gaze_torchrl.modules.geometry import MapGeometry
from gaze_torchrl.modules.heads import MLPHead, MomentsHead, TransformerHead
from gaze_torchrl.modules.impala import ImpalaCNN
from gaze_torchrl.modules.keypoints import SpatialSoftmaxGaze
from gaze_torchrl.modules.pretrained import PretrainedEncoder
from gaze_torchrl.modules.readout import FlattenReadout, GlimpseReadout, KeypointReadout, PoolReadout

__all__ = [
    "AttentionPoolGaze",
    "ConvEncoder",
    "DrQCNN",
    "FiLM",
    "FineCNN",
    "FixedCenterGaze",
    "FlattenReadout",
    "FovealGaze",
    "GazeModule",
    "GlimpseReadout",
    "ImpalaCNN",
    "KeypointReadout",
    "MLPHead",
    "MapGeometry",
    "MaskGaze",
    "MomentsHead",
    "NatureCNN",
    "NoGaze",
    "PatchGaze",
    "PlainCNN",
    "PoolReadout",
    "PretrainedEncoder",
    "SpatialSoftmaxGaze",
    "TransformerHead",
    "Trunk",
    "gaze_actor",
    "qvalue_head",
    "value_head",
]
