"""Tasks of the DeepMind Control Suite from pixels, simulated and drawn on the CPU through EGL."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torchrl.data.utils import DEVICE_TYPING
from torchrl.envs import (
    DMControlWrapper,
    DoubleToFloat,
    EnvBase,
    ExcludeTransform,
    RenameTransform,
    SerialEnv,
    TransformedEnv,
)
from torchrl.record import PixelRenderTransform

from gaze_torchrl.envs.rendering import RendererNotFound
from gaze_torchrl.envs.wrapping import WrappedEnv, check_at_least_one, require
from gaze_torchrl.registry import register

__all__ = ["DMControlEnv"]

HOW_TO_INSTALL = (
    "install Mesa's software driver, on Debian and Ubuntu `apt-get install libegl1 libopengl0 libgl1-mesa-dri`, "
    "or set the environment variable MUJOCO_GL to another backend (glfw, osmesa) before dm_control is imported"
)
EXPENSIVE = ("shadow", "reflection", "skybox")  # two more passes over the scene, and a texture to fill it with


@register("env", "dm_control")
class DMControlEnv(WrappedEnv):
    """A batch of N environments of one task of the DeepMind Control Suite, with pixels.

    They are TorchRL's `DMControlWrapper` in a `SerialEnv`. Pictures are drawn once per step, not once per skipped
    frame. Episodes are truncated at the suite's time limit and, in most tasks, never terminate.

    ============ ============ ======= ========================================================================
    key          shape        dtype   meaning
    ============ ============ ======= ========================================================================
    `pixels`     [N, C, H, W] uint8   picture of `camera`
    `proprio`    [N, P]       float32 the task's own observation, flat: nearly always its full state; if asked for
    `action`     [N, A]       float32 torques or the like, in [-1, 1]
    `reward`     [N, 1]       float32 the task's, in [0, 1], summed over the skipped frames
    ============ ============ ======= ========================================================================

    Args:
        task: domain and task with a hyphen between, such as ``"cartpole-swingup"``.
        num_envs: number N of environments, at least 1, stepped in turn in this process.
        image_size: height and width of the pictures in pixels.
        frame_skip: the task's steps per step, at least 1: the action is repeated.
        frame_stack: last pictures in `pixels`, at least 1, the newest last: more than one show motion.
        camera: number of the camera, at least 0.
        low_cost: draw without shadows, reflections, sky and anti-aliasing, several times faster; physics and rewards
            do not change.
        proprio: add the key `proprio`. It gives the answer away.
        horizon: steps after which an episode is truncated, at least 1. None: the task's own limit, 1000 frames.
        device: where the tensors shall be. None: the CPU.

    Raises:
        ModuleNotFoundError: if ``dm_control`` is not installed.
        RendererNotFound: if OpenGL cannot draw.
        ValueError: if an argument is out of its range, or there is no such task.

    References:
        Tunyasuvunakool et al., dm_control: Software and Tasks for Continuous Control, 2020.

    Example:
        >>> env = DMControlEnv("walker-walk", num_envs=2)  # doctest: +SKIP
        >>> env.rollout(10)["next", "pixels"].shape  # doctest: +SKIP
        torch.Size([2, 10, 3, 64, 64])
    """

    def __init__(
        self,
        task: str = "cartpole-swingup",
        num_envs: int = 8,
        image_size: int = 64,
        frame_skip: int = 4,
        frame_stack: int = 1,
        camera: int = 0,
        low_cost: bool = True,
        proprio: bool = False,
        horizon: int | None = None,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        check_at_least_one(
            num_envs=num_envs, image_size=image_size, frame_skip=frame_skip, frame_stack=frame_stack, horizon=horizon
        )
        require("dm_control", extra="dm_control")
        suite = _load_suite()
        from dm_control.mujoco import Camera

        domain, _, name = task.partition("-")
        if (domain, name) not in suite.ALL_TASKS:
            raise ValueError(f"env.task must be one of {', '.join(map('-'.join, suite.ALL_TASKS))}; got {task!r}.")

        def lane() -> EnvBase:
            environment = suite.load(domain, name, environment_kwargs={"flat_observation": True})
            physics = environment.physics
            if not 0 <= camera < physics.model.ncam:
                raise ValueError(f"env.camera must be from 0 to {physics.model.ncam - 1} for {task}, got {camera}.")
            if low_cost:
                physics.model.vis.quality.offsamples = 0
            # Kept, because making one costs more than a picture.
            render = PixelRenderTransform(
                camera=Camera(physics, image_size, image_size, camera),
                flags=dict.fromkeys(EXPENSIVE, False) if low_cost else {},
            )
            env = TransformedEnv(_Scene(environment, frame_skip=frame_skip), render)
            env.reset()  # the first draws two episodes, one to learn the picture's shape: not after `set_seed`
            return env

        state = RenameTransform(["observations"], ["proprio"]) if proprio else ExcludeTransform("observations")
        env = SerialEnv(num_envs, lane)
        super().__init__(env, state, DoubleToFloat(), frame_stack=frame_stack, horizon=horizon, device=device)


class _Scene(DMControlWrapper):
    """One environment that TorchRL's `PixelRenderTransform` can draw."""

    def render(self, camera: Any, flags: dict[str, bool]) -> np.ndarray:
        frame = camera.render(render_flag_overrides=flags)  # a view of the camera's buffer
        return np.moveaxis(frame, -1, 0).copy()


@functools.cache
def _load_suite() -> Any:
    """dm_control's suite, once it has drawn something.

    Raises:
        RendererNotFound: if it cannot.
    """
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # needs no display; dm_control would look for one first
    with _drawing():
        from dm_control import suite
    physics = suite.load("pendulum", "swingup").physics
    with _drawing():
        physics.render(8, 8)
    return suite


@contextmanager
def _drawing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # OpenGL's libraries fail in a way of their own each
        backend = os.environ.get("MUJOCO_GL")
        raise RendererNotFound(f"OpenGL cannot draw with MUJOCO_GL={backend} ({error}): {HOW_TO_INSTALL}.") from error
