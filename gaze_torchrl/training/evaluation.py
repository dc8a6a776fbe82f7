"""Evaluation: whole episodes on fixed seeds, and where the gaze was while they ran."""

from __future__ import annotations

import math
import warnings

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torch.nn import functional as F
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.modules import MapGeometry

__all__ = [
    "episode_metrics",
    "gaze_density",
    "gaze_distance",
    "gaze_drift",
    "gaze_entropy",
    "gaze_on_target",
    "rollout_episodes",
]


@torch.no_grad()
def rollout_episodes(env: EnvBase, policy: TensorDictModuleBase, seed: int, max_steps: int = 10_000) -> TensorDictBase:
    """One episode in each environment of a batch, actions without noise.

    Args:
        env: batched environment [N].
        policy: writes the action, and what of the gaze is to be measured.
        seed: of the environment; the same seed gives the same episodes.
        max_steps: longest episode, for environments without a time limit.

    Returns:
        Steps [N, T], with ``mask`` [N, T] bool: whether the episode still ran.
    """
    env.set_seed(seed)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = env.rollout(max_steps, policy, break_when_any_done=False, break_when_all_done=True)
    done = steps["next", "done"].squeeze(-1)
    if not done.any(-1).all():
        warnings.warn(
            f"Some episodes had not ended after {max_steps:,} steps and were cut there: set a time limit, env.horizon.",
            stacklevel=2,
        )
    return steps.set("mask", done.cumsum(-1) - done.long() == 0)


def episode_metrics(steps: TensorDictBase, geometry: MapGeometry) -> dict[str, float]:
    """Means over episodes.

    Args:
        steps: what `rollout_episodes` returned.
        geometry: from the gaze's coordinates to the image's.

    Returns:
        ``return`` and ``length`` of an episode; where the environment reports success, ``success_at_end``,
        ``success_once`` and ``success_time`` (share of the steps); ``gaze_entropy``, of a gaze with foveae
        ``gaze_drift``, and where the environment tells the truth ``gaze_on_target`` and, with foveae,
        ``gaze_distance``.
    """
    mask = steps["mask"]
    length = mask.sum(-1)
    reward = steps["next", "reward"].squeeze(-1)
    metrics = {"return": (reward * mask).sum(-1).mean(), "length": length.float().mean()}
    success = steps.get(("next", "success"), None)
    if success is not None:
        success = success.squeeze(-1) & mask
        metrics["success_at_end"] = success.gather(-1, length[:, None] - 1).double().mean()
        metrics["success_once"] = success.any(-1).double().mean()  # a share of 0.9 must not be a little less
        metrics["success_time"] = (success.sum(-1) / length).mean()
    center, mean = steps.get(("truth", "center"), None), steps.get(("gaze", "mean"), None)
    if center is not None and mean is not None:
        metrics["gaze_distance"] = gaze_distance(mean, center, geometry)[mask].mean()
    if mean is not None:
        metrics["gaze_drift"] = gaze_drift(mean, geometry)[mask[:, 1:]].mean()
    target, gaze = steps.get(("truth", "mask"), None), steps.get("gaze", None)
    if gaze is not None:
        density = gaze_density(gaze)
        metrics["gaze_entropy"] = gaze_entropy(density)[mask].mean()
        if target is not None:
            metrics["gaze_on_target"] = gaze_on_target(density, target, geometry)[mask].mean()
    return {name: float(value) for name, value in metrics.items()}


def gaze_distance(mean: Tensor, center: Tensor, geometry: MapGeometry) -> Tensor:
    """Distance from an object to its nearest fovea, in image units ([-1, 1] spans the image), mean over the objects.

    The nearest of K foveae is near by chance, too: for a target placed as in clutter, one fovea that stays in the
    middle of the image is on average 0.69 away, for two targets 0.70. Compare variants with equal K.

    Args:
        mean: foveae [*, K, 2] in map coordinates.
        center: the object's centre [*, 2], or those of M objects [*, M, 2], in image coordinates.
        geometry: from map to image coordinates.

    Returns:
        Distances [*].
    """
    centers = center.unsqueeze(-2) if center.ndim < mean.ndim else center
    ways = geometry.to_image(mean).unsqueeze(-3) - centers.unsqueeze(-2)  # [*, M, K, 2]
    return ways.norm(dim=-1).amin(-1).mean(-1)


def gaze_density(gaze: TensorDictBase) -> Tensor:
    """Where attention lies, as a density over the cells: the mean of the foveae, each of mass one, or else the map.

    The soft union of the foveae says what passes the gaze; one wide fovea lets everything pass. This says where the
    glimpses come from, a wide fovea spreading its share thin.

    Args:
        gaze: ``foveae`` [*, K, h, w], or of a gaze without any its ``map`` [*, h, w]; non-negative.

    Returns:
        Densities [*, h, w] that sum to one.
    """
    foveae = gaze.get("foveae", None)
    parts = gaze["map"].unsqueeze(-3) if foveae is None else foveae
    return (parts / parts.sum((-2, -1), keepdim=True).clamp_min(1e-8)).mean(-3)


def gaze_on_target(attention: Tensor, object_mask: Tensor, geometry: MapGeometry) -> Tensor:
    """Share of the gaze's attention that falls on an object, or on any of several.

    Args:
        attention: density or map [*, h, w], non-negative.
        object_mask: pixels of the object, or of all of them [*, H, W], bool.
        geometry: where the cells of the map lie in the image.

    Returns:
        Shares [*] in [0, 1]; a gaze that treats all cells alike has the object's share of the image.
    """
    height, width = object_mask.shape[-2:]
    box = [
        (length * (1 + offset - scale) / 2, length * scale)
        for length, scale, offset in zip((height, width), geometry.scale[::-1], geometry.offset[::-1], strict=True)
    ]
    (top, tall), (left, wide) = ((round(start), round(extent)) for start, extent in box)
    # Some maps reach past the image, others do not reach its edge: then these are negative.
    beyond = (-left, left + wide - width, -top, top + tall - height)
    inner = F.pad(object_mask.reshape(-1, 1, height, width).to(attention.dtype), beyond)
    share = F.adaptive_avg_pool2d(inner, (attention.shape[-2], attention.shape[-1]))
    share = share.reshape(attention.shape)
    return (attention * share).sum((-2, -1)) / attention.sum((-2, -1)).clamp_min(1e-8)


def gaze_entropy(density: Tensor) -> Tensor:
    """How spread out attention is: the entropy of its density, as a share of the largest there can be.

    Args:
        density: [*, h, w], non-negative, sums to one; at least two cells.

    Returns:
        Shares [*] in [0, 1]: 0 for one cell, 1 for all cells alike.

    Example:
        >>> gaze_entropy(torch.full((2, 2), 0.25))
        tensor(1.)
    """
    cells = density.flatten(-2)
    return torch.special.entr(cells).sum(-1) / math.log(cells.shape[-1])


def gaze_drift(mean: Tensor, geometry: MapGeometry) -> Tensor:
    """How far the foveae move from each step to the next, on average, in image units.

    Args:
        mean: foveae [*, T, K, 2] in map coordinates, T steps of an episode.
        geometry: from map to image coordinates.

    Returns:
        Distances [*, T - 1].
    """
    place = geometry.to_image(mean)
    return (place[..., 1:, :, :] - place[..., :-1, :, :]).norm(dim=-1).mean(-1)
