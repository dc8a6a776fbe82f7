"""Any Gymnasium task seen in pictures: those it observes, or those it renders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torchrl.data.utils import DEVICE_TYPING

from gaze_torchrl.envs.wrapping import VectorWrapper, WrappedEnv, check_at_least_one, require
from gaze_torchrl.registry import register

if TYPE_CHECKING:
    import gymnasium

__all__ = ["GymEnv"]


@register("env", "gym")
class GymEnv(WrappedEnv):
    """A batch of N environments of one Gymnasium task, with pixels.

    They are one of Gymnasium's vector environments without automatic reset, in TorchRL's wrapper: lanes are
    reset by TorchRL's `"_reset"` mask, and `("next", "pixels")` holds the true last picture of an episode. An action
    is a box of numbers or, for a task with discrete actions, an index (`Categorical`).

    Each lane has a seed of its own (`lane_seeds`), and its later episodes depend on nothing but its own past.

    ============ ============ ======= ========================================================================
    key          shape        dtype   meaning
    ============ ============ ======= ========================================================================
    `pixels`     [N, C, H, W] uint8   the task's observation if that is a picture, else what it renders
    `proprio`    [N, P]       float32 the task's observation if that is no picture, flat; if asked for
    `action`     [N, A]       float32 in the bounds of the task
    `reward`     [N, 1]       float32 the task's, summed over the skipped frames
    ============ ============ ======= ========================================================================

    Args:
        task: an id of Gymnasium's registry; ``"module:id"`` imports a module that registers it.
        num_envs: number N of environments, at least 1.
        image_size: height and width of the pictures in pixels; other sizes are averaged over areas.
        frame_skip: the task's steps per step, at least 1: the action is repeated.
        frame_stack: last pictures in `pixels`, at least 1, the newest last: more than one show motion.
        proprio: add the key `proprio`. For a task that observes its full state, this gives the answer away.
        horizon: steps after which an episode is truncated, at least 1. None: the task's own limit.
        device: where the tensors shall be. None: the CPU.

    Raises:
        ModuleNotFoundError: if Gymnasium, or what the task needs, is not installed.
        ValueError: if an argument is out of its range, or there is no such task.

    Example:
        >>> env = GymEnv("CarRacing-v3", num_envs=2)  # doctest: +SKIP
        >>> env.rollout(10)["next", "pixels"].shape  # doctest: +SKIP
        torch.Size([2, 10, 3, 64, 64])
    """

    def __init__(
        self,
        task: str = "CarRacing-v3",
        num_envs: int = 8,
        image_size: int = 64,
        frame_skip: int = 1,
        frame_stack: int = 1,
        proprio: bool = False,
        horizon: int | None = None,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        check_at_least_one(
            num_envs=num_envs, image_size=image_size, frame_skip=frame_skip, frame_stack=frame_stack, horizon=horizon
        )
        require("gymnasium", extra="gym")
        import gymnasium
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        def lane() -> gymnasium.Env:
            env = gymnasium.make(task, render_mode="rgb_array", disable_env_checker=True)
            return _picture(gymnasium.wrappers.RepeatAction(env, frame_skip), image_size, proprio)

        try:
            lanes = SyncVectorEnv([lane] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
        except gymnasium.error.DependencyNotInstalled as error:
            message = f'env.task={task!r} needs a package that is not installed: pip install "gaze_torchrl[gym]"'
            raise ModuleNotFoundError(f"{message} ({error}).") from error
        except gymnasium.error.UnregisteredEnv as error:
            raise ValueError(f"env.task={task!r} is no Gymnasium task: {error}") from error
        env = VectorWrapper(lanes, categorical_action_encoding=True)
        super().__init__(env, frame_stack=frame_stack, horizon=horizon, device=device)


def _picture(env: Any, image_size: int, proprio: bool) -> gymnasium.Env:
    """The task with the observation {pixels, proprio}."""
    from gymnasium.spaces import Box, Dict
    from gymnasium.wrappers import AddRenderObservation, FlattenObservation, TransformObservation

    space = env.observation_space
    observes_picture = isinstance(space, Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)
    if observes_picture and proprio:
        raise ValueError(f"env.proprio must be false for {env.spec.id}: it observes nothing but its picture.")
    if not observes_picture:
        env = AddRenderObservation(FlattenObservation(env), render_only=False)

    def read(observation: Any) -> dict[str, np.ndarray]:
        frame = observation if observes_picture else observation["pixels"]
        # Pillow's box filter averages areas: thin things do not vanish.
        small = Image.fromarray(frame).resize((image_size, image_size), Image.Resampling.BOX)
        entries = {"pixels": np.moveaxis(np.asarray(small), -1, 0)}
        return entries | {"proprio": np.asarray(observation["state"], np.float32)} if proprio else entries

    entries: dict[str, Any] = {"pixels": Box(0, 255, (3, image_size, image_size), np.uint8)}
    if proprio:
        entries["proprio"] = Box(-np.inf, np.inf, env.observation_space["state"].shape, np.float32)
    return TransformObservation(env, read, Dict(entries))
