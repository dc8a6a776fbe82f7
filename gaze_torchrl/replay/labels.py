"""Labels: how much was it worth to be there? One number per step, and whether it is known yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from tensordict import TensorDictBase
from torch import Tensor

from gaze_torchrl.functional import discounted_return, known_return, lambda_return, segment_end
from gaze_torchrl.registry import register
from gaze_torchrl.replay.episodes import time_order

__all__ = ["Label", "ReturnToGo", "ValueTarget", "label_steps"]

Label = Callable[[TensorDictBase], tuple[Tensor, Tensor]]
"""From steps grouped by trajectory, in time order, to their labels and whether each is known.

An attribute ``needs`` names the columns it reads that not every loop or environment writes: ``"next_value"``,
``"success"``.
"""


@register("labels", "return_to_go")
class ReturnToGo:
    r"""Discounted return from the step to the end of its episode.

    .. math:: G_t = \sum_{i \ge t} \gamma^{i-t} r_i

    Known once the episode has ended; a step of an unfinished episode has no label yet.

    Args:
        gamma: discount per step, in [0, 1].
        truncation: what an episode cut by a time limit is worth: ``"sum"``, the rewards it got (right where all
            episodes have one length); ``"mask"``, unknown; or ``"bootstrap"``, the rewards it got and then the
            critic's value of the state it was cut in.

    Raises:
        ValueError: if ``gamma`` or ``truncation`` is out of range.

    Example:
        >>> from tensordict import TensorDict
        >>> done = torch.tensor([False, True, False])
        >>> steps = TensorDict(
        ...     {"trajectory": torch.tensor([0, 0, 1]), "reward": torch.ones(3), "done": done, "terminated": done}, [3]
        ... )
        >>> ReturnToGo(gamma=0.5)(steps)
        (tensor([1.5000, 1.0000, 1.0000]), tensor([ True,  True, False]))
    """

    def __init__(self, gamma: float = 0.99, truncation: Literal["sum", "mask", "bootstrap"] = "sum") -> None:
        _check_fraction("gamma", gamma)
        if truncation not in ("sum", "mask", "bootstrap"):
            raise ValueError(f"labels.truncation must be 'sum', 'mask' or 'bootstrap', got {truncation!r}.")
        self.gamma, self.truncation = gamma, truncation
        self.needs: tuple[str, ...] = ("next_value",) if truncation == "bootstrap" else ()

    def __call__(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Label steps [T] that are grouped by trajectory, in time order.

        Args:
            steps: ``trajectory`` int64, ``reward`` float, ``done`` and ``terminated`` bool, and to bootstrap
                ``next_value`` float, the value of the state after each step, all [T].

        Returns:
            Labels [T], and [T] bool: whether each is known.

        Raises:
            KeyError: if the steps lack ``next_value`` to bootstrap with.
        """
        last = segment_end(steps["trajectory"], steps["done"])
        known = known_return(last, steps["terminated" if self.truncation == "mask" else "done"])
        if self.truncation != "bootstrap":
            return discounted_return(steps["reward"], last, self.gamma), known
        value = _next_value(steps, "labels.truncation=bootstrap", "labels.truncation=sum")
        return lambda_return(steps["reward"], value, last, steps["terminated"], self.gamma, lmbda=1.0), known


@register("labels", "value_target")
class ValueTarget:
    r"""Bootstrapped lambda-return: also known for steps of unfinished episodes.

    .. math:: G_t = r_t + \gamma\left[(1-\lambda) V_{t+1} + \lambda\, G_{t+1}\right]

    with V taken where the stored steps of a trajectory end, a time limit included, and 0 after termination. V is the
    critic's estimate at the time the step was stored.

    Args:
        gamma: discount per step, in [0, 1].
        lmbda: lambda, in [0, 1].

    Raises:
        ValueError: if ``gamma`` or ``lmbda`` is out of range.

    Example:
        >>> from tensordict import TensorDict
        >>> no = torch.zeros(2, dtype=torch.bool)
        >>> steps = TensorDict(
        ...     {"trajectory": torch.zeros(2, dtype=torch.int64), "reward": torch.ones(2), "done": no,
        ...      "terminated": no, "next_value": torch.tensor([0.0, 8.0])}, [2]
        ... )
        >>> ValueTarget(gamma=0.5, lmbda=1.0)(steps)
        (tensor([3.5000, 5.0000]), tensor([True, True]))
    """

    needs = ("next_value",)

    def __init__(self, gamma: float = 0.99, lmbda: float = 0.95) -> None:
        _check_fraction("gamma", gamma)
        _check_fraction("lmbda", lmbda)
        self.gamma, self.lmbda = gamma, lmbda

    def __call__(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Label steps [T] that are grouped by trajectory, in time order.

        Args:
            steps: as for `ReturnToGo`, and ``next_value`` [T], the value of the state after each step.

        Returns:
            Labels [T], and [T] bool, all true.

        Raises:
            KeyError: if the steps have no ``next_value``.
        """
        value = _next_value(steps, "labels=value_target", "labels=return_to_go")
        last = segment_end(steps["trajectory"], steps["done"])
        label = lambda_return(steps["reward"], value, last, steps["terminated"], self.gamma, self.lmbda)
        return label, torch.ones_like(steps["done"])


def label_steps(steps: TensorDictBase, label: Label) -> tuple[Tensor, Tensor]:
    """Label steps stored in any order, such as those of vectorised lanes in a ring buffer.

    Args:
        steps: the columns the label reads and ``written``, all [T]; ``written`` (int64) orders the steps of one
            trajectory in time, whatever lies between them.
        label: a label.

    Returns:
        Labels [T] and whether each is known [T], in the order of the steps.
    """
    order = time_order(steps["trajectory"], steps["written"])
    values, known = label(steps[order])
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return values[back], known[back]


def _next_value(steps: TensorDictBase, asked: str, otherwise: str) -> Tensor:
    value = steps.get("next_value", None)
    if value is None:
        raise KeyError(
            f"{asked} needs the critic's value of each next state: run TorchRL's GAE, which writes "
            "('next', 'state_value'), before the data is extended into the buffer, or choose "
            f"{otherwise}."
        )
    return value


def _check_fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"labels.{name} must lie in [0, 1], got {value}.")
