"""ManiSkill tasks seen by a camera, as a TorchRL environment.

Without a GPU one ManiSkill environment is one scene. `ManiSkillEnv` holds several and steps them in turn: the
scenes of a process share the renderer, the meshes and each call of the policy network.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.data.utils import DEVICE_TYPING
from torchrl.envs import EnvBase

from gaze_torchrl.envs.maniskill_clutter import Distractors
from gaze_torchrl.envs.maniskill_scene import keep_renderer, scene_class, truth
from gaze_torchrl.envs.maniskill_tasks import TASKS, task_specification
from gaze_torchrl.envs.rendering import require_renderer
from gaze_torchrl.registry import register

__all__ = ["ManiSkillEnv"]


@register("env", "maniskill")
class ManiSkillEnv(EnvBase):
    r"""A batch of k ManiSkill scenes with RGB observations, simulated and drawn on the CPU.

    Episodes have a fixed length by default: success does not end them, they are truncated after `horizon`
    steps. Scenes are reset one by one through TorchRL's `"_reset"` mask and never behind its back, so that
    `("next", "pixels")` holds the true last picture of an episode.

    ===================== ============ ======= ======================================================
    key                   shape        dtype   meaning
    ===================== ============ ======= ======================================================
    `pixels`              [k, 3, H, W] uint8   picture of `camera`, 0 to 255
    `proprio`             [k, P]       float32 what the robot feels: the entries of `TASKS`, if any
    `privileged`          [k, Q]       float32 all other state, the solution included; if asked for
    `success`             [k, 1]       bool    whether the task is solved at this step
    `("truth", "mask")`   [k, H, W]    bool    pixels of the task's object, as far as they are visible
    `("truth", "center")` [k, 2]       float32 place of its origin in the picture, x and y, which
                                               [-1, 1] spans; it may be hidden, or out of the picture
    `action`              [k, A]       float32 command to the controller, between its bounds
    `reward`              [k, 1]       float32 ManiSkill's reward, normalised to at most 1 by default
    ===================== ============ ======= ======================================================

    Lengths are in metres, angles in radians, poses are position and unit quaternion (w, x, y, z). The truth is for
    measurement only, and costs a twentieth of a step; the cart-pole, alone in its scene, has none.

    Args:
        task: One of `TASKS`.
        num_envs: Number k of scenes, at least 1.
        image_size: Height and width of the picture in pixels.
        control_mode: ManiSkill's controller, such as `"pd_joint_delta_pos"` or `"pd_ee_delta_pos"`.
        reward_mode: `"normalized_dense"`, `"dense"`, `"sparse"` or `"none"`.
        horizon: Steps after which an episode is truncated, at least 1. None: the task's own.
        terminate_on_success: End an episode as ManiSkill does, `terminated` at success and at failure.
        privileged: Add the key `privileged`.
        low_poly: Draw simplified meshes, several times faster; physics and rewards do not change.
        camera: Name of the camera.
        distractors: Objects on the table that have nothing to do with the task, at least 0.
        distractor_kind: `"visual"`, they can be seen and nothing else; `"colliding"`, they can be hit, too.
        distractor_colors: `"any"` but the task's own; `"task"`, the colours of what is to be moved.
        shift: Other looks than usual, one of `SHIFTS` with its strength, such as `"lighting-2"`; its distractors go
            before the three options above.
        device: Where the tensors shall be. None: the CPU.

    Raises:
        ModuleNotFoundError: If ManiSkill is not installed.
        RendererNotFound: If no Vulkan driver can render.
        ValueError: If an argument is out of its range, or an action is not finite.

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
        image_size: int = 64,
        control_mode: str = "pd_joint_delta_pos",
        reward_mode: str = "normalized_dense",
        horizon: int | None = None,
        terminate_on_success: bool = False,
        privileged: bool = False,
        low_poly: bool = True,
        camera: str = "base_camera",
        distractors: int = 0,
        distractor_kind: Literal["visual", "colliding"] = "visual",
        distractor_colors: Literal["any", "task"] = "any",
        shift: str | None = None,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("image_size", image_size), ("horizon", horizon)):
            if value is not None and value < 1:
                raise ValueError(f"env.{name} must be at least 1, got {value}")
        if distractors < 0:
            raise ValueError(f"env.distractors must be at least 0, got {distractors}")
        specification = task_specification(task)
        if reward_mode not in specification.cls.SUPPORTED_REWARD_MODES:
            raise ValueError(
                f"env.reward_mode must be one of {tuple(specification.cls.SUPPORTED_REWARD_MODES)} "
                f"for {task}, got {reward_mode!r}"
            )
        scene = scene_class(specification.cls, camera, low_poly, distractors, distractor_kind, distractor_colors, shift)
        require_renderer()
        keep_renderer()
        super().__init__(device=device or "cpu", batch_size=[num_envs])
        self.task = task
        self.horizon = horizon or specification.max_episode_steps
        self.terminate_on_success = terminate_on_success
        self.privileged = privileged
        self.camera = camera
        arguments = {
            "obs_mode": "rgb+segmentation" + "+state_dict" * privileged,
            "reward_mode": reward_mode,
            "control_mode": control_mode,
            "sensor_configs": {"width": image_size, "height": image_size, "shader_pack": "minimal"},
            "sim_backend": "physx_cpu",
            "render_backend": "cpu",
        }
        from mani_skill import logger

        level = logger.level
        logger.setLevel(logging.ERROR)  # its warnings are for authors of tasks, and come once per scene
        try:
            # Only scenes with distractors look different from one another.
            numbers = [{"first_scene": i} if issubclass(scene, Distractors) else {} for i in range(num_envs)]
            self._scenes = [scene(**arguments, **number) for number in numbers]
        except AssertionError as error:
            if "not in supported modes" not in str(error):
                raise
            raise ValueError(f"env.control_mode: {error}") from error
        finally:
            logger.setLevel(level)
        self._steps = torch.zeros(num_envs, 1, dtype=torch.long)
        self._set_seed(None)
        self._observation = TensorDict.stack([self._reset_scene(i) for i in range(num_envs)])
        self._make_specs()

    def _make_specs(self) -> None:
        k, device, observation = self.num_envs, self.device, self._observation
        flag = Categorical(2, shape=(k, 1), dtype=torch.bool, device=device)
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, observation["pixels"].shape, dtype=torch.uint8, device=device),
            success=flag,
            shape=(k,),
            device=device,
        )
        for key in ("proprio", "privileged"):
            if key in observation:
                self.observation_spec[key] = Unbounded(observation[key].shape, device=device)
        if "truth" in observation:
            mask = observation["truth", "mask"].shape
            self.observation_spec["truth"] = Composite(
                mask=Categorical(2, shape=mask, dtype=torch.bool, device=device),
                center=Unbounded((k, 2), device=device),
                shape=(k,),
                device=device,
            )
        actions = self._scenes[0].single_action_space
        low, high = (torch.from_numpy(bound).expand(k, -1) for bound in (actions.low, actions.high))
        self.action_spec = Bounded(low, high, device=device)
        self.reward_spec = Unbounded((k, 1), device=device)
        self.done_spec = Composite(done=flag, terminated=flag, truncated=flag, shape=(k,), device=device)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        chosen = range(self.num_envs) if mask is None else mask.view(-1).nonzero().flatten().tolist()
        # Not in place: the tensors of the last step, an episode's last picture among them, were handed out.
        self._observation = self._observation.clone()
        for i in chosen:
            self._observation[i] = self._reset_scene(i)
        return self._observation.to(self.device)

    def _reset_scene(self, i: int) -> TensorDict:
        # Given a seed, ManiSkill draws from a fork of torch's global generator; without, from that itself.
        observation, info = self._scenes[i].reset(seed=int(self._generators[i].integers(2**31)))
        self._steps[i] = 0
        return self._read(self._scenes[i], observation, info)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict["action"].detach().to("cpu")
        expected = self.action_spec.shape
        if action.shape != expected:
            raise ValueError(f"action must have shape {tuple(expected)}, got {tuple(action.shape)}")
        if not action.isfinite().all():
            raise ValueError(
                "action must be finite, got NaN or infinity: the policy has diverged, "
                "lower loss.learning_rate or loss.max_grad_norm"
            )
        # One after the other: a PhysX scene on the CPU cannot be batched.
        steps = [scene.step(command) for scene, command in zip(self._scenes, action, strict=True)]
        observations, rewards, ended, _, infos = zip(*steps, strict=True)
        self._steps += 1
        self._observation = TensorDict.stack(list(map(self._read, self._scenes, observations, infos)))
        truncated = self._steps >= self.horizon
        terminated = torch.stack(ended) if self.terminate_on_success else torch.zeros_like(truncated)
        result = self._observation.copy()
        result["reward"] = torch.stack(rewards).float()
        result["terminated"] = terminated
        result["truncated"] = truncated
        result["done"] = terminated | truncated
        return result.to(self.device)

    def _read(self, scene: Any, observation: dict[str, Any], info: dict[str, Any]) -> TensorDict:
        """Sort what one scene returns, tensors with a leading dimension of 1, into keys."""
        entries = {**observation["agent"], **observation["extra"]}
        allowed = [entries.pop(name) for name in TASKS[self.task].proprio]
        pictures = observation["sensor_data"][self.camera]
        source: dict[str, Any] = {
            "pixels": pictures["rgb"][0].permute(2, 0, 1),
            "success": info.get("success", torch.zeros(1)).bool(),
        }
        if target := TASKS[self.task].target:
            source["truth"] = truth(getattr(scene, target), pictures["segmentation"][0, ..., 0], scene.camera)
        if allowed:
            source["proprio"] = torch.cat(allowed, -1)[0].float()
        if self.privileged:
            from mani_skill.utils.common import flatten_state_dict

            source["privileged"] = flatten_state_dict(entries, use_torch=True)[0].float()
        return TensorDict(source)

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
        while self._scenes:
            self._scenes.pop().close()
        super().close(raise_if_closed=raise_if_closed)
