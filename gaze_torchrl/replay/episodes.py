"""Where each stored step stands in its episode, from the order of writing alone."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from gaze_torchrl.functional import segment_end, segment_start

__all__ = ["place_in_episode", "time_order"]


def time_order(trajectory: Tensor, written: Tensor) -> Tensor:
    """Indices [T] that group steps by trajectory, each in time order.

    Args:
        trajectory: [T] int64.
        written: [T] int64, the running number of each step.

    Example:
        >>> time_order(torch.tensor([7, 3, 7]), torch.tensor([4, 3, 2]))
        tensor([1, 2, 0])
    """
    order = written.argsort()
    return order[trajectory[order].argsort(stable=True)]


def place_in_episode(trajectory: Tensor, done: Tensor, stored: TensorDictBase | None) -> tuple[Tensor, Tensor]:
    """Continue the episodes of the stored steps with new ones.

    An episode begins where a trajectory id is first seen, or goes on after ``done``. So a collector's first step of a
    trajectory must be among the steps ever written, and at least one of its steps still stored when it goes on.

    Args:
        trajectory: of the new steps, [n] int64, those of one trajectory in time order.
        done: [n] bool.
        stored: earlier steps [N]: ``trajectory``, ``done``, ``written``, ``step`` and ``episode``; None for none.

    Returns:
        Of the new steps, both [n] int64: ``step``, the time index within the episode, and ``episode``, a number
        that is equal along one episode and different from that of every other.

    Example:
        >>> done = torch.tensor([False, True, False, False])
        >>> step, episode = place_in_episode(torch.tensor([5, 5, 5, 8]), done, None)
        >>> step, episode
        (tensor([0, 1, 0, 0]), tensor([0, 0, 2, 3]))
    """
    first = 0 if stored is None else stored["written"].max() + 1
    number = torch.arange(len(trajectory), device=trajectory.device) + first
    # What would be true of each step if it began an episode; of a stored one it is known.
    step, episode, written = torch.zeros_like(number), number, number
    if stored is not None:
        trajectory, done, written, step, episode = (
            torch.cat([stored[name], new])
            for name, new in {
                "trajectory": trajectory,
                "done": done,
                "written": written,
                "step": step,
                "episode": episode,
            }.items()
        )
    order = time_order(trajectory, written)
    start = segment_start(segment_end(trajectory[order], done[order]))
    since = torch.arange(len(order), device=order.device) - start
    back = order.argsort()[-len(number) :]
    return (step[order][start] + since)[back], episode[order][start][back]
