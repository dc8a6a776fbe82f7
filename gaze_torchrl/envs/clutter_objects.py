"""The objects of the clutter world as an episode begins: where they are, how they move, what they look like."""

import math

import torch
from torch import Tensor

from gaze_torchrl.envs.clutter_levels import ClutterLevel

__all__ = ["AGENT_RADIUS", "DISTRACTOR_RADIUS", "TARGET_RADIUS", "draw_objects", "uniform"]

AGENT_RADIUS = 0.09
"""Of the agent's disk, in units of the world, whose sides are 2."""
TARGET_RADIUS = 0.11
"""Of the targets, disks or rings."""
DISTRACTOR_RADIUS = (0.08, 0.14)
"""From, to."""

AGENT_COLOR = (255.0, 255.0, 255.0)
TARGET_COLORS = ((220.0, 40.0, 40.0), (40.0, 220.0, 40.0))  # the red one, the green one
DISTRACTOR_SPEED = (0.02, 0.06)
COLOR_EXCESS = 0.2  # distractors in which a target's colour leads by more change it with blue
START_DISTANCE, START_CANDIDATES = 0.5, 8  # of the agent from its goal, and of two targets from each other


def draw_objects(level: ClutterLevel, objects: int, lanes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws the K distractors, the M targets and the agent of every lane, in this order.

    Args:
        level: how many distractors, of which looks, and what moves.
        objects: targets M: 1, the red one, or 2, the red and the green one.
        lanes: number N of worlds.
        generator: of all randomness, on the device of the results.

    Returns:
        ``center`` [N, K + M + 1, 2]; ``velocity``, likewise, per step; ``radius`` [N, K + M + 1]; ``color``
        [N, K + M + 1, 3] in [0, 255].
    """
    k, number = level.distractors, level.distractors + objects + 1

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return uniform(low, high, (lanes, *shape), generator)

    if objects == 1:
        targets = draw(-0.9, 0.9, 1, 2)
    else:
        pairs = draw(-0.9, 0.9, START_CANDIDATES, 2, 2)
        targets = first_far(pairs, (pairs[:, :, 0] - pairs[:, :, 1]).norm(dim=-1))
    starts = draw(-1, 1, START_CANDIDATES, 2)
    agent = first_far(starts, (starts - targets.mean(1, keepdim=True)).norm(dim=-1))
    center = torch.cat([draw(-1, 1, k, 2), targets, agent[:, None]], dim=1)

    speed = draw(*DISTRACTOR_SPEED, number) * level.moving
    speed[:, k:-1], speed[:, -1] = level.target_speed, 0.0
    velocity = torch.view_as_real(torch.polar(speed, draw(0, 2 * math.pi, number))).contiguous()

    radius = draw(*DISTRACTOR_RADIUS, number)
    color = unlike_targets(draw(0, 1, number, 3), objects) * 255
    palette = color.new_tensor(TARGET_COLORS[:objects])
    rings = slice(k - level.rings, k)
    radius[:, rings], radius[:, k:-1], radius[:, -1] = TARGET_RADIUS, TARGET_RADIUS, AGENT_RADIUS
    color[:, rings] = palette[torch.arange(level.rings, device=color.device) % objects]  # red, green, red, ...
    color[:, k:-1], color[:, -1] = palette, color.new_tensor(AGENT_COLOR)
    return {"center": center, "velocity": velocity, "radius": radius, "color": color}


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform random numbers.

    Args:
        low: where they begin.
        high: where they end.
        shape: of the result.
        generator: draws them, on its device.
    """
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def first_far(candidates: Tensor, distance: Tensor) -> Tensor:
    """The first of [N, C, ...] candidates whose distance [N, C] is large enough, else the farthest: [N, ...]."""
    order = torch.arange(distance.shape[1], 0, -1, device=distance.device)
    # No distance in the world exceeds sqrt(8): any candidate that is far enough beats any that is not.
    score = torch.where(distance >= START_DISTANCE, order + 3.0, distance)
    return candidates[torch.arange(len(candidates), device=candidates.device), score.argmax(1)]


def unlike_targets(color: Tensor, objects: int) -> Tensor:
    """Swaps red, and with two targets green, with blue where it leads strongly in [*, 3] RGB colours in [0, 1]."""
    for channel, swapped in ((0, (2, 1, 0)), (1, (0, 2, 1)))[:objects]:
        others = [other for other in range(3) if other != channel]
        leads = color[..., channel] - color[..., others].amax(-1) > COLOR_EXCESS
        color = torch.where(leads[..., None], color[..., swapped], color)
    return color
