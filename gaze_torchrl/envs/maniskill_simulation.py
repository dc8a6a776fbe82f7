"""ManiSkill scenes simulated and drawn: one by one on the CPU, or all at once on a GPU."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gaze_torchrl.envs.maniskill_clutter import Distractors
from gaze_torchrl.envs.maniskill_scene import SceneOptions, scene_class
from gaze_torchrl.envs.maniskill_tasks import TASKS, task_specification
from gaze_torchrl.envs.rendering import require_renderer

__all__ = ["Reading", "Simulation", "keep_renderer"]

Reading = dict[str, Tensor]
"""What is seen and felt of n scenes, [n, ...]: ``pixels``, ``success``, and maybe ``proprio``, ``privileged``, ``mask``
and ``center``; after a step also ``reward`` and ``ended``."""


class Simulation:
    """Scenes of one task, in this process.

    On the CPU a PhysX scene cannot be batched: each is a ManiSkill environment of its own, and they take turns. On a
    GPU all are one environment.

    Args:
        options: what the scenes are made from.
        first: number of the first scene; scenes of different numbers look different, if they have distractors.
        count: how many, at least 1.
        gpu: simulate on the GPU.

    Raises:
        RendererNotFound: if no Vulkan driver can render.
        ValueError: if an option is out of its range, or there is no GPU.
    """

    def __init__(self, options: SceneOptions, first: int, count: int, gpu: bool = False) -> None:
        specification = task_specification(options.task)
        if options.reward_mode not in specification.cls.SUPPORTED_REWARD_MODES:
            raise ValueError(
                f"env.reward_mode must be one of {tuple(specification.cls.SUPPORTED_REWARD_MODES)} "
                f"for {options.task}, got {options.reward_mode!r}"
            )
        scene = scene_class(specification.cls, options)
        # A software renderer hands pictures over on the CPU; those of a GPU are read through CUDA.
        backend = "cpu" if require_renderer().is_cpu or not torch.cuda.is_available() else "gpu"
        if gpu and backend == "cpu":
            raise ValueError("env.simulation=gpu needs a CUDA device that can also draw, found none: choose cpu")
        if gpu:
            _load_gpu_physics()
        keep_renderer("cuda" if backend == "gpu" else "cpu")
        self.options, self.count, self._gpu = options, count, gpu
        arguments = {
            "obs_mode": "rgb+segmentation"
            + "+depth" * (options.depth is not None)
            + "+state_dict" * options.privileged,
            "reward_mode": options.reward_mode,
            "control_mode": options.control_mode,
            "sensor_configs": {"width": options.image_size, "height": options.image_size, "shader_pack": "minimal"},
            "sim_backend": "physx_cuda" if gpu else "physx_cpu",
            "render_backend": backend,
        }
        looks = issubclass(scene, Distractors)  # only those look different from one another
        numbers = [first] if gpu else range(first, first + count)
        extra = [{"num_envs": count}] if gpu else [{}] * count
        from mani_skill import logger

        level = logger.level
        logger.setLevel(logging.ERROR)  # its warnings are for authors of tasks, and come once per scene
        try:
            self.scenes: list[Any] = [
                scene(**arguments, **more, **({"first_scene": number} if looks else {}))
                for number, more in zip(numbers, extra, strict=True)
            ]
        except AssertionError as error:
            if "not in supported modes" not in str(error):
                raise
            raise ValueError(f"env.control_mode: {error}") from error
        finally:
            logger.setLevel(level)
        self._seeds = [0] * count

    @property
    def action_bounds(self) -> tuple[Tensor, Tensor]:
        """Least and greatest action of one scene, [A] each."""
        space = self.scenes[0].single_action_space
        return torch.from_numpy(space.low), torch.from_numpy(space.high)

    def reset(self, rows: Sequence[int], seeds: Sequence[int]) -> Reading:
        """Begin new episodes in some scenes.

        Args:
            rows: increasing indices of the scenes.
            seeds: one for each, non-negative integers.

        Returns:
            What is seen of them.
        """
        for scene in self.scenes:
            scene.unseen = False  # an exception within a skip may have left it so
        if not self._gpu:
            # Given a seed, ManiSkill draws from a fork of torch's global generator; without, from that itself.
            scenes = [self.scenes[row] for row in rows]
            return self._read([self._seen(one, *one.reset(seed=seed)) for one, seed in zip(scenes, seeds, strict=True)])
        for row, seed in zip(rows, seeds, strict=True):
            self._seeds[row] = seed
        # ManiSkill seeds what it draws for all scenes by the first one's: an old seed would draw the old episodes.
        self._seeds[0] = seeds[0]
        scene, which = self.scenes[0], torch.tensor(rows, device=self.scenes[0].device)
        seen = self._seen(scene, *scene.reset(seed=self._seeds, options={"env_idx": which}))
        return self._read([{key: entry[which] for key, entry in seen.items()}])

    def step(self, action: Tensor) -> Reading:
        """Act in all scenes.

        Args:
            action: [n, A].

        Returns:
            What is seen afterwards, with ``reward`` [n, 1], the sum over the skipped frames, and ``ended`` [n, 1]:
            whether ManiSkill calls the episode ended, by success or failure, in any of them.
        """
        commands = [action] if self._gpu else action.split(1)
        return self._read([self._step(scene, command) for scene, command in zip(self.scenes, commands, strict=True)])

    def _step(self, scene: Any, command: Tensor) -> Reading:
        command, rewards, ends, successes = command.to(scene.device), [], [], []
        for left in reversed(range(self.options.frame_skip)):
            scene.unseen = left > 0
            observation, reward, ended, _, info = scene.step(command)
            rewards.append(reward.float())
            ends.append(ended)
            successes.append(_success(scene, info))
        seen = self._seen(scene, observation, info)
        if self.options.terminate_on_success:
            seen["success"] = torch.stack(successes).any(0)  # an episode that a success has ended is one
        return {**seen, "reward": torch.stack(rewards).sum(0), "ended": torch.stack(ends).any(0)}

    def _seen(self, scene: Any, observation: dict[str, Any], info: dict[str, Any]) -> Reading:
        """What is needed of what ManiSkill returns for n scenes, as it is: it is worked on for all scenes at once."""
        entries = {**observation["agent"], **observation["extra"]}
        seen: Reading = {f"proprio {name}": entries.pop(name) for name in self.options.proprio}
        for camera in self.options.cameras:
            seen |= {f"{kind} {camera}": one for kind, one in observation["sensor_data"][camera].items()}
        seen["success"] = _success(scene, info)
        if (name := TASKS[self.options.task].target) is not None:
            target = getattr(scene, name)
            view = observation["sensor_param"][self.options.cameras[0]]
            seen |= {"number": target.per_scene_id, "place": target.pose.p}
            seen |= {key: view[key] for key in ("extrinsic_cv", "intrinsic_cv")}
        if self.options.privileged:
            from mani_skill.utils.common import flatten_state_dict

            seen["privileged"] = flatten_state_dict(entries, use_torch=True).float()
        return seen

    def _read(self, scenes: list[Reading]) -> Reading:
        """Sort what was seen of some scenes into keys."""
        seen = scenes[0] if len(scenes) == 1 else {key: torch.cat([one[key] for one in scenes]) for key in scenes[0]}
        cameras, device, n = self.options.cameras, seen["success"].device, len(seen["success"])
        pictures = [self._picture(seen[f"rgb {one}"], seen.get(f"depth {one}")) for one in cameras]
        reading: Reading = {
            "pixels": _side_by_side(pictures).to(device),
            "success": seen["success"].bool().unsqueeze(-1),
            **{key: seen[key].unsqueeze(-1) for key in ("reward", "ended") if key in seen},
        }
        if "number" in seen:
            numbers = _side_by_side([seen[f"segmentation {one}"][..., 0] for one in cameras]).to(device)
            reading["mask"] = numbers == seen["number"].view(n, 1, 1)
            center = _project(seen["place"], seen["extrinsic_cv"], seen["intrinsic_cv"], self.options.image_size)
            # In the whole picture, of which the first camera's is the leftmost part.
            center[:, 0] = (center[:, 0] + 1) / len(cameras) - 1
            reading["center"] = center
        if self.options.proprio:
            reading["proprio"] = torch.cat([seen[f"proprio {name}"] for name in self.options.proprio], -1).float()
        if self.options.privileged:
            reading["privileged"] = seen["privileged"]
        return reading

    def _picture(self, rgb: Tensor, depth: Tensor | None) -> Tensor:
        """One camera's picture [n, C, H, W], uint8."""
        picture = rgb.permute(0, 3, 1, 2).contiguous()  # a copy: a GPU's renderer uses its memory again
        if self.options.depth is None or depth is None:
            return picture
        metres = depth.permute(0, 3, 1, 2).float() / 1000
        share = torch.where(metres > 0, metres / self.options.depth, 1).clamp(max=1)  # 0 where there is nothing
        return torch.cat([(255 * share).round().to(torch.uint8), picture], 1)

    def close(self) -> None:
        """Free the scenes."""
        while self.scenes:
            self.scenes.pop().close()


def _load_gpu_physics() -> None:
    """SAPIEN downloads PhysX's library for GPUs when it is first used."""
    import requests
    import sapien.physx

    try:
        sapien.physx.enable_gpu()
    except requests.RequestException as error:
        folder = Path.home() / ".sapien" / "physx" / sapien.physx.version()
        raise ValueError(
            "env.simulation=gpu needs PhysX's library for GPUs, which SAPIEN could not download: use it once on a "
            f"machine with a network, and copy its {folder} here."
        ) from error


@functools.cache
def keep_renderer(device: str = "cpu") -> Any:
    """SAPIEN drops its renderer with the last scene, and setting it up again takes ten seconds on a CPU."""
    import sapien.render

    return sapien.render.RenderSystem(sapien.Device(device))


def _success(scene: Any, info: dict[str, Any]) -> Tensor:
    return info.get("success", torch.zeros(scene.num_envs, dtype=torch.bool, device=scene.device)).bool()


def _side_by_side(pictures: list[Tensor]) -> Tensor:
    return pictures[0] if len(pictures) == 1 else torch.cat(pictures, -1)


def _project(place: Tensor, extrinsic: Tensor, intrinsic: Tensor, image_size: int) -> Tensor:
    """Where a camera sees a place.

    Args:
        place: [n, 3] in the world, metres.
        extrinsic: ManiSkill's ``extrinsic_cv`` of the camera [n, 3, 4].
        intrinsic: its ``intrinsic_cv`` [n, 3, 3].
        image_size: height and width of its picture.

    Returns:
        x and y in the picture, [-1, 1] from edge to edge, [n, 2] float32; of a place behind the camera, which no point
        of the picture shows, 2 from its middle, towards the side where it is.
    """
    turn, shift = extrinsic.split([3, 1], -1)
    seen = turn @ place.unsqueeze(-1) + shift
    across, down, depth = (intrinsic @ seen).squeeze(-1).unbind(-1)
    inside = torch.stack([across, down], -1) / depth.unsqueeze(-1) * (2 / image_size) - 1
    outside = 2 * torch.nn.functional.normalize(seen[:, :2, 0] + torch.finfo(seen.dtype).eps, dim=-1)
    return torch.where(depth.unsqueeze(-1) > 0, inside, outside).float()
