"""What environments of other libraries have in common: their checks, stacked frames, a horizon, a device."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Bounded
from torchrl.data.utils import DEVICE_TYPING
from torchrl.envs import (
    CatFrames,
    Compose,
    DeviceCastTransform,
    EnvBase,
    GymWrapper,
    StepCounter,
    Transform,
    TransformedEnv,
)

__all__ = [
    "RefusedAction",
    "ShiftDoesNotApply",
    "VectorWrapper",
    "WorkerDied",
    "WrappedEnv",
    "check_at_least_one",
    "lane_seeds",
    "require",
]


class WrappedEnv(TransformedEnv):
    """Another library's environments, made TorchRL's, with transforms, stacked frames, a horizon and a device.

    The library works on the CPU; on another device, actions and results are copied.

    Args:
        env: batched environments on the CPU.
        *transforms: applied in order.
        frame_stack: last pictures in `pixels`, the newest last, at least 1; before an episode's first is the first.
        horizon: steps after which an episode is truncated, if it has not ended before, at least 1. None: no limit
            but the environment's own.
        device: where the tensors shall be. None: the CPU.
    """

    def __init__(
        self,
        env: EnvBase,
        *transforms: Transform,
        frame_stack: int = 1,
        horizon: int | None = None,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        chain = list(transforms)
        if frame_stack > 1:
            chain.append(CatFrames(frame_stack, dim=-3, in_keys=["pixels"]))
        if horizon is not None:
            chain.append(StepCounter(horizon))
        if device is not None:
            chain.append(DeviceCastTransform(device, orig_device="cpu"))
        super().__init__(env, Compose(*chain))


class RefusedAction(ValueError):
    """An action that is not finite.

    Args:
        message: what it was.
        batch: what the policy saw and answered.
    """

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch


class ShiftDoesNotApply(ValueError):
    """A shift of what a scene does not have, such as distractors without a table to lie on, or of looks on a GPU."""


class WorkerDied(RuntimeError):
    """A process that simulates or collects has ended, killed by a signal or by an error of its own."""


class VectorWrapper(GymWrapper):
    """TorchRL's wrapper, for Gymnasium's vector environments that leave resets to the caller."""

    _ended: Tensor  # at the last step [N]

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        # Without automatic reset, TorchRL 0.14 expects a mask in every tensordict.
        partial = tensordict is not None and "_reset" in tensordict
        return super()._reset(tensordict if partial else None, **kwargs)

    def _set_seed(self, seed: int | None) -> None:
        super()._set_seed(lane_seeds(seed, self._env.num_envs))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        # An evaluation goes on until its last episode has ended. TorchRL marks the lanes that are to wait, but steps
        # all; Gymnasium refuses to step those that have ended, and so they begin an episode that nobody looks at.
        running = tensordict.get("_step", None)
        if running is not None:
            tensordict = tensordict.exclude("_step")
            if (ended := self._ended & ~running.reshape(-1).cpu()).any():
                self._env.reset(options={"reset_mask": ended.numpy()})
        if isinstance(self.action_spec, Bounded):
            # A Gaussian knows no bounds, and tasks charge what they were given. The rollout keeps what was drawn.
            action = self.action_spec.project(tensordict.get(self.action_key))
            tensordict = tensordict.copy().set(self.action_key, action)
        result = super()._step(tensordict)
        self._ended = result["done"].reshape(-1).cpu()
        return result


def lane_seeds(seed: int | None, count: int) -> list[int]:
    """A seed for each of several environments.

    Not ``seed + i``, which Gymnasium's vector environments make of one: runs of the seeds 1 and 2 would have all their
    episodes in common but those of one environment each.

    Args:
        seed: of them all; None for one from the system.
        count: how many, at least 0.

    Returns:
        Independent seeds in [0, 2^31): ALE takes no larger ones.

    Example:
        >>> set(lane_seeds(1, 8)) & set(lane_seeds(2, 8))
        set()
    """
    return (np.random.SeedSequence(seed).generate_state(count) >> 1).tolist()


def check_at_least_one(**sizes: Any) -> None:
    """Check counts of an environment's configuration; None is no count.

    Raises:
        ValueError: with the key of the first that is less than 1.

    Example:
        >>> check_at_least_one(num_envs=0)
        Traceback (most recent call last):
        ValueError: env.num_envs must be at least 1, got 0.
    """
    for key, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"env.{key} must be at least 1, got {size}.")


def require(package: str, extra: str) -> None:
    """Check that an optional package is there, before anything imports it.

    Args:
        package: its import name.
        extra: the extra of ``gaze_torchrl`` that brings it.

    Raises:
        ModuleNotFoundError: with the command that installs it.

    Example:
        >>> require("no_such_package", "gym")
        Traceback (most recent call last):
        ModuleNotFoundError: no_such_package is not installed: pip install "gaze_torchrl[gym]"
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f'{package} is not installed: pip install "gaze_torchrl[{extra}]"')
