"""Environments with pixels: the embedded clutter, and ManiSkill3."""

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS, ClutterLevel
from gaze_torchrl.envs.maniskill import ManiSkillEnv

__all__ = ["LEVELS", "ClutterEnv", "ClutterLevel", "ManiSkillEnv"]
