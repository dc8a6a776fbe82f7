"""ManiSkill tasks seen by cameras, as a TorchRL environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.data.utils import DEVICE_TYPING
from torchrl.envs import EnvBase

from gaze_torchrl.envs.maniskill_scene import SceneOptions
from gaze_torchrl.envs.maniskill_shift import LOOKS, parse_shift
from gaze_torchrl.envs.maniskill_simulation import Reading, Simulation
from gaze_torchrl.envs.maniskill_tasks import TASKS, task_specification
from gaze_torchrl.envs.maniskill_workers import Workers
from gaze_torchrl.envs.wrapping import RefusedAction, ShiftDoesNotApply, check_at_least_one
from gaze_torchrl.registry import register

__all__ = ["ManiSkillEnv"]


@register("env", "maniskill")
class ManiSkillEnv(EnvBase):
    r"""A batch of k ManiSkill scenes with pictures.

    Episodes have a fixed length by default: success does not end them, they are truncated after `horizon`
    steps. Scenes are reset one by one through TorchRL's `"_reset"` mask and never behind its back, so that
    `("next", "pixels")` holds the true last picture of an episode.

    ===================== ============ ======= ======================================================
    key                   shape        dtype   meaning
    ===================== ============ ======= ======================================================
    `pixels`              [k, C, H, W] uint8   the cameras' pictures, side by side; the frames of a
                                               stack, the newest last; of each, maybe its depth, then
                                               red, green, blue, 0 to 255
    `proprio`             [k, P]       float32 what the robot feels: the entries of `TASKS`, if any
    `privileged`          [k, Q]       float32 all other state, the solution included; if asked for
    `success`             [k, 1]       bool    whether the task is solved at this step
    `("truth", "mask")`   [k, H, W]    bool    pixels of the task's object, as far as they are visible
    `("truth", "center")` [k, 2]       float32 place of its origin in the first camera's picture, in
                                               coordinates of the whole, which [-1, 1] spans: x and y;
                                               it may be hidden, or out of the picture
    `action`              [k, A]       float32 command to the controller, between its bounds
    `reward`              [k, 1]       float32 ManiSkill's reward, normalised to at most 1 by default,
                                               summed over the skipped frames
    ===================== ============ ======= ======================================================

    Lengths are in metres, angles in radians, poses are position and unit quaternion (w, x, y, z). The truth is for
    measurement only, and costs a twentieth of a step; the cart-pole, alone in its scene, has none.

    On the CPU, episodes depend on the seed and the number of the scene alone: neither on when other scenes are reset,
    nor on ``num_workers``. On a GPU ManiSkill draws for all scenes that are reset at once.

    Args:
        task: One of `TASKS`.
        num_envs: Number k of scenes, at least 1.
        num_workers: Processes that simulate and draw them, at least 1; no more than k are started. 1: this one.
        simulation: `"cpu"`, scene by scene, or `"gpu"`, all at once, with tensors that stay there.
        image_size: Height and width of a camera's picture in pixels; W is that times the number of cameras.
        control_mode: ManiSkill's controller, such as `"pd_joint_delta_pos"` or `"pd_ee_delta_pos"`.
        reward_mode: `"normalized_dense"`, `"dense"`, `"sparse"` or `"none"`.
        horizon: ManiSkill's steps after which an episode is truncated, at least 1, skipped ones included. None: the
            task's own.
        terminate_on_success: End an episode as ManiSkill does, `terminated` at success and at failure.
        frame_skip: ManiSkill's steps per step, at least 1: the action is repeated, and nothing drawn in between. Of an
            episode that ends in between, the rest of the skip is acted out, too.
        frame_stack: Last pictures in `pixels`, at least 1; before an episode's first is the first.
        proprio: Entries of ManiSkill's state that make up `proprio`, some of those that `TASKS` allows. None: all.
        privileged: Add the key `privileged`.
        low_poly: Draw simplified meshes, several times faster; physics and rewards do not change.
        cameras: Names of the cameras, at least one.
        depth: Distance in metres that the depth channel reaches to: 0 near the camera, 255 there and beyond. None: no
            depth channel.
        distractors: Objects on the table that have nothing to do with the task, at least 0.
        distractor_kind: `"visual"`, they can be seen and nothing else; `"colliding"`, they can be hit, too.
        distractor_colors: `"any"` but the task's own; `"task"`, the colours of what is to be moved.
        shift: Other looks than usual, one of `SHIFTS` with its strength, such as `"lighting-2"`; its distractors go
            before the three options above.
        device: Where the tensors shall be. None: where the simulation is.

    Raises:
        ModuleNotFoundError: If ManiSkill is not installed.
        RendererNotFound: If no Vulkan driver can render.
        ValueError: If an argument is out of its range, or an action is not finite.
        WorkerDied: If one of the processes has ended.

    References:
        Tao et al., ManiSkill3: GPU Parallelized Robotics Simulation and Rendering for Generalizable Embodied
        AI, 2024.

    Examples:
        >>> env = ManiSkillEnv("PushCube-v1", num_envs=2)  # doctest: +SKIP
        >>> env.rollout(10)["next", "pixels"].shape  # doctest: +SKIP
        torch.Size([2, 10, 3, 64, 64])
    """

    def __init__(
        self,
        task: str = "PushCube-v1",
        num_envs: int = 8,
        num_workers: int = 1,
        simulation: Literal["cpu", "gpu"] = "cpu",
        image_size: int = 64,
        control_mode: str = "pd_joint_delta_pos",
        reward_mode: str = "normalized_dense",
        horizon: int | None = None,
        terminate_on_success: bool = False,
        frame_skip: int = 1,
        frame_stack: int = 1,
        proprio: Sequence[str] | None = None,
        privileged: bool = False,
        low_poly: bool = True,
        cameras: Sequence[str] = ("base_camera",),
        depth: float | None = None,
        distractors: int = 0,
        distractor_kind: Literal["visual", "colliding"] = "visual",
        distractor_colors: Literal["any", "task"] = "any",
        shift: str | None = None,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        check_at_least_one(
            num_envs=num_envs,
            num_workers=num_workers,
            image_size=image_size,
            horizon=horizon,
            frame_skip=frame_skip,
            frame_stack=frame_stack,
            cameras=len(cameras),
        )
        if isinstance(cameras, str):
            raise ValueError(f"env.cameras must be a list of names, such as [base_camera], got {cameras!r}")
        if simulation not in ("cpu", "gpu"):
            raise ValueError(f"env.simulation must be 'cpu' or 'gpu', got {simulation!r}")
        if simulation == "gpu" and num_workers > 1:
            raise ValueError(f"env.num_workers must be 1 with env.simulation=gpu, got {num_workers}")
        if simulation == "gpu" and shift is not None and parse_shift(shift)[0] in LOOKS:
            raise ShiftDoesNotApply(
                f"env.shift={shift} changes the looks of scenes one by one, on the CPU: set env.simulation=cpu"
            )
        if distractors < 0:
            raise ValueError(f"env.distractors must be at least 0, got {distractors}")
        if depth is not None and not depth > 0:
            raise ValueError(f"env.depth must be positive, got {depth}")
        steps = horizon or task_specification(task).max_episode_steps
        options = SceneOptions(
            task=task,
            image_size=image_size,
            control_mode=control_mode,
            reward_mode=reward_mode,
            frame_skip=frame_skip,
            terminate_on_success=terminate_on_success,
            proprio=_allowed(task, proprio),
            privileged=privileged,
            low_poly=low_poly,
            cameras=tuple(cameras),
            depth=depth,
            distractors=distractors,
            distractor_kind=distractor_kind,
            distractor_colors=distractor_colors,
            shift=shift,
        )
        self.simulation: Simulation | Workers = (
            Simulation(options, 0, num_envs, gpu=simulation == "gpu")
            if num_workers == 1
            else Workers(options, num_envs, min(num_workers, num_envs))
        )
        home = "cuda" if simulation == "gpu" else "cpu"
        super().__init__(device=device or home, batch_size=[num_envs])
        self.task, self.horizon = task, -(-steps // frame_skip)
        self.terminate_on_success, self.frame_stack = terminate_on_success, frame_stack
        self._home = torch.device(home)
        self._steps = torch.zeros(num_envs, 1, dtype=torch.long, device=home)
        self._set_seed(None)
        self._now = self._begin(range(num_envs))
        self._make_specs()

    def _make_specs(self) -> None:
        k, device, now = self.num_envs, self.device, self._now
        flag = Categorical(2, shape=(k, 1), dtype=torch.bool, device=device)
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, now["pixels"].shape, dtype=torch.uint8, device=device),
            success=flag,
            shape=(k,),
            device=device,
        )
        for key in ("proprio", "privileged"):
            if key in now:
                self.observation_spec[key] = Unbounded(now[key].shape, device=device)
        if "truth" in now:
            self.observation_spec["truth"] = Composite(
                mask=Categorical(2, shape=now["truth", "mask"].shape, dtype=torch.bool, device=device),
                center=Unbounded((k, 2), device=device),
                shape=(k,),
                device=device,
            )
        low, high = (bound.expand(k, -1) for bound in self.simulation.action_bounds)
        self.action_spec = Bounded(low, high, device=device)
        self.reward_spec = Unbounded((k, 1), device=device)
        self.done_spec = Composite(done=flag, terminated=flag, truncated=flag, shape=(k,), device=device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        rows = range(self.num_envs) if mask is None else mask.view(-1).nonzero().flatten().tolist()
        if rows:
            # Not in place: the tensors of the last step, an episode's last picture among them, were handed out.
            fresh, self._now = self._begin(rows), self._now.clone()
            self._now[list(rows)] = fresh
        return self._now.to(self.device)

    def _begin(self, rows: Sequence[int]) -> TensorDict:
        """The first observations of new episodes in some scenes."""
        seeds = [int(self._generators[row].integers(2**31)) for row in rows]
        reading = self.simulation.reset(rows, seeds)
        self._steps[list(rows)] = 0
        reading["pixels"] = reading["pixels"].repeat(1, self.frame_stack, 1, 1)
        return _observation(reading, len(rows))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict["action"].detach().to(self._home)
        expected = self.action_spec.shape
        if action.shape != expected:
            raise ValueError(f"action must have shape {tuple(expected)}, got {tuple(action.shape)}")
        if not action.isfinite().all():
            raise RefusedAction(
                "action must be finite, got NaN or infinity; look for them in the policy's weights and input",
                tensordict,
            )
        reading = self.simulation.step(action)
        if self.frame_stack > 1:
            newest = reading["pixels"]
            reading["pixels"] = torch.cat([self._now["pixels"][:, newest.shape[1] :], newest], 1)
        self._steps += 1
        self._now = _observation(reading, self.num_envs)
        truncated = self._steps >= self.horizon
        terminated = reading["ended"] if self.terminate_on_success else torch.zeros_like(truncated)
        result = self._now.copy()
        result["reward"] = reading["reward"]
        result["terminated"] = terminated
        result["truncated"] = truncated
        result["done"] = terminated | truncated
        return result.to(self.device)

    def _set_seed(self, seed: int | None) -> None:
        # One generator for each scene: its episodes do not depend on when the others are reset.
        sequences = np.random.SeedSequence(seed).spawn(self.num_envs)
        self._generators = [np.random.default_rng(sequence) for sequence in sequences]

    @property
    def num_envs(self) -> int:
        """Number of scenes."""
        return self.batch_size[0]

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Free the scenes; the environment cannot be used afterwards."""
        self.simulation.close()
        super().close(raise_if_closed=raise_if_closed)


def _allowed(task: str, proprio: Sequence[str] | None) -> tuple[str, ...]:
    allowed = TASKS[task].proprio
    if strangers := [name for name in proprio or () if name not in allowed]:
        raise ValueError(
            f"env.proprio may hold {list(allowed)} of {task}, got {strangers}: a robot does not feel that, and who is "
            "told where things are need not look"
        )
    return allowed if proprio is None else tuple(proprio)


def _observation(reading: Reading, count: int) -> TensorDict:
    entries: dict[str, Any] = {
        key: reading[key] for key in ("pixels", "proprio", "privileged", "success") if key in reading
    }
    if "mask" in reading:
        entries["truth"] = {key: reading[key] for key in ("mask", "center")}
    return TensorDict(entries, [count])
