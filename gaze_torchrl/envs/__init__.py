"""Environments with pixels: the embedded clutter, ManiSkill3, Gymnasium, Atari, the DeepMind Control Suite."""

from gaze_torchrl.envs.ale import ALEEnv
from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS, ClutterLevel
from gaze_torchrl.envs.dm_control import DMControlEnv
from gaze_torchrl.envs.gym import GymEnv
from gaze_torchrl.envs.maniskill import ManiSkillEnv

__all__ = ["LEVELS", "ALEEnv", "ClutterEnv", "ClutterLevel", "DMControlEnv", "GymEnv", "ManiSkillEnv"]
