"""A small clutter environment, and how to act in it."""

import torch
from tensordict import TensorDict

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import ClutterLevel


def small(level: str | ClutterLevel = "medium", **kwargs) -> ClutterEnv:
    return ClutterEnv(level, **{"num_envs": 4, "image_size": 32, "seed": 0, **kwargs})


def act(env: ClutterEnv, x: float, y: float) -> TensorDict:
    action = torch.tensor([x, y]).expand(env.batch_size[0], 2)
    return env.step(TensorDict(action=action, batch_size=env.batch_size))["next"]


def place(env: ClutterEnv, agent: tuple[float, float], target: tuple[float, float]) -> None:
    env.reset()
    env.center[:, -1], env.center[:, -2] = torch.tensor(agent), torch.tensor(target)
