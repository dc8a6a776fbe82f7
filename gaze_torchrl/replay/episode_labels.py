"""Labels of whole episodes: one number, the same for all of its steps."""

from __future__ import annotations

from typing import Literal

from tensordict import TensorDictBase
from torch import Tensor

from gaze_torchrl.functional import discounted_return, known_return, segment_end, segment_start
from gaze_torchrl.registry import register
from gaze_torchrl.replay.labels import ReturnToGo

__all__ = ["EpisodeReturn", "Success"]


@register("labels", "episode_return")
class EpisodeReturn:
    r"""Return of the whole episode, for every one of its steps.

    .. math:: G = \sum_{i=0}^{T-1} \gamma^i r_i

    Known once the episode has ended, as long as all of it is stored: where its first step (``step`` 0) has been
    overwritten in the bank, nobody knows the sum any more.

    Args:
        gamma: discount per step, in [0, 1].
        truncation: what an episode cut by a time limit is worth, as for `ReturnToGo`.

    Raises:
        ValueError: if ``gamma`` or ``truncation`` is out of range.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> done = torch.tensor([False, True, True])
        >>> steps = TensorDict(
        ...     {"trajectory": torch.tensor([0, 0, 1]), "step": torch.tensor([0, 1, 7]), "reward": torch.ones(3),
        ...      "done": done, "terminated": done}, [3]
        ... )
        >>> EpisodeReturn()(steps)
        (tensor([2., 2., 1.]), tensor([ True,  True, False]))
    """

    def __init__(self, gamma: float = 1.0, truncation: Literal["sum", "mask", "bootstrap"] = "sum") -> None:
        self.to_go = ReturnToGo(gamma, truncation)
        self.needs = self.to_go.needs

    def __call__(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Label steps [T] that are grouped by trajectory, in time order.

        Args:
            steps: as for `ReturnToGo`, and ``step`` [T] int64, the time index within the episode.

        Returns:
            Labels [T], and [T] bool: whether each is known.
        """
        to_go, known = self.to_go(steps)
        start = segment_start(segment_end(steps["trajectory"], steps["done"]))
        return to_go[start], known & (steps["step"][start] == 0)


@register("labels", "success")
class Success:
    """Whether the episode succeeded, 1 or 0, for every one of its steps.

    Known once the episode has ended, by a time limit too: failing in time is failing. ``once`` must have seen all of
    it, so it is not known where the episode's first step has been overwritten in the bank.

    Args:
        when: ``"once"``, success at any step counts; ``"at_end"``, only at the last one.

    Raises:
        ValueError: if ``when`` is unknown.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> steps = TensorDict(
        ...     {"trajectory": torch.zeros(3, dtype=torch.int64), "step": torch.arange(3),
        ...      "success": torch.tensor([False, True, False]), "done": torch.tensor([False, False, True])}, [3]
        ... )
        >>> Success("once")(steps)[0], Success("at_end")(steps)[0]
        (tensor([1., 1., 1.]), tensor([0., 0., 0.]))
    """

    needs = ("success",)

    def __init__(self, when: Literal["once", "at_end"] = "once") -> None:
        if when not in ("once", "at_end"):
            raise ValueError(f"labels.when must be 'once' or 'at_end', got {when!r}.")
        self.when = when

    def __call__(self, steps: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Label steps [T] that are grouped by trajectory, in time order.

        Args:
            steps: ``trajectory`` int64, ``step`` int64, ``success`` bool, whether the state after each step is a
                success, and ``done`` bool, all [T].

        Returns:
            Labels [T], and [T] bool: whether each is known.

        Raises:
            KeyError: if the steps have no ``success``.
        """
        success = steps.get("success", None)
        if success is None:
            raise KeyError(
                "labels=success needs ('next', 'success'), which environments with a goal write, such as "
                "ManiSkillEnv: set columns={'success': ...} for another key, or choose labels=return_to_go."
            )
        last = segment_end(steps["trajectory"], steps["done"])
        start, known = segment_start(last), known_return(last, steps["done"])
        if self.when == "at_end":
            success = success.bool() & last
        else:
            known = known & (steps["step"][start] == 0)
        count = discounted_return(success.float(), last, 1.0)
        return (count[start] > 0).float(), known
