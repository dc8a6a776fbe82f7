"""A batched pixel world in pure torch: reach the target, or the middle of two, among distractors (docs/clutter.md)."""

from typing import Any, Literal, get_args

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.nn.functional import pad
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from gaze_torchrl.envs.clutter_levels import LEVELS, ClutterLevel
from gaze_torchrl.envs.clutter_objects import AGENT_RADIUS, DISTRACTOR_RADIUS, TARGET_RADIUS, draw_objects, uniform
from gaze_torchrl.envs.clutter_render import background, disk_mask, paint, patch_size
from gaze_torchrl.envs.wrapping import RefusedAction
from gaze_torchrl.registry import register

__all__ = ["ClutterEnv"]

STEP = 0.2  # displacement per unit of action
SUCCESS_DISTANCE = 0.15

RewardName = Literal["dense", "sparse"]


@register("env", "clutter")
class ClutterEnv(EnvBase):
    r"""Batched pixel environment: move a white disk to its goal, among distractors, and stay there.

    The goal is the red disk, or with `objects=2` the midpoint between the red and the green one. The reward is
    :math:`1[d < 0.15]`, and with `reward="dense"` also :math:`0.3 (1 - \tanh 2d)`, where d is the distance between
    agent and goal after the step. Episodes are truncated at the horizon and never terminate.

    Policies may read `pixels` uint8 [N, 3, S, S] and `proprio` float32 [N, 2], the agent's position. For
    measurement only: `success` bool [N, 1], d < 0.15; `("truth", "center")` float32 [N, 2], the target's centre, or
    [N, 2, 2], that of the red and of the green one; `("truth", "agent")` float32 [N, 2], the agent's centre;
    `("truth", "mask")` bool [N, S, S], the pixels of all targets, also those that the agent covers. The action is
    float32 [N, 2], clipped to [-1, 1].

    Only reset draws random numbers, for all lanes at once and from a generator of the env's own: episodes
    depend on the seed and the number of resets, never on the policy. `state_dict` holds the episodes in
    progress and the generator: after `load_state_dict` the env continues bit for bit, future resets included.

    Args:
        level: a name in :data:`~gaze_torchrl.envs.clutter_levels.LEVELS`, or a level of your own.
        num_envs: lanes N, at least 1.
        image_size: side S of the image in pixels, at least 16.
        objects: targets M: 1, the red one, or 2, the red and the green one.
        reward: "dense" or "sparse".
        horizon: steps per episode, at least 1.
        seed: of the generator, as for `set_seed`; None takes one from the operating system.
        device: where the state lives and the drawing happens; None means torch's default device.

    Raises:
        ValueError: if an argument is out of its range. Also when stepping on a CPU with NaN in the action;
            elsewhere, where looking would wait for the device, the agent stays put and the reward is NaN.

    >>> env = ClutterEnv("easy", num_envs=2, image_size=32, seed=0)
    >>> episode = env.rollout(20)
    >>> episode["pixels"].shape, episode["next", "done"].sum().item()
    (torch.Size([2, 20, 3, 32, 32]), 2)
    """

    restores = True  # its state_dict holds everything
    center: Tensor  # [N, K + M + 1, 2] of the distractors, the targets, the agent: the order of drawing
    velocity: Tensor  # [N, K + M + 1, 2] per step; the agent's is 0, it only moves by its actions
    radius: Tensor  # [N, K + M + 1]
    color: Tensor  # [N, K + M + 1, 3] in [0, 255]
    backdrop: Tensor  # [N, 3, S + padding, S + padding] uint8: whatever does not change within the episode
    elapsed: Tensor  # [N, 1] int64 steps

    def __init__(
        self,
        level: str | ClutterLevel = "medium",
        num_envs: int = 32,
        image_size: int = 64,
        objects: int = 1,
        reward: RewardName = "dense",
        horizon: int = 20,
        seed: int | None = None,
        device: torch.device | str | int | None = None,
    ) -> None:
        if isinstance(level, str) and level not in LEVELS:
            raise ValueError(f"env.level must be one of {', '.join(LEVELS)}, got {level!r}")
        sizes = (("num_envs", num_envs, 1), ("image_size", image_size, 16), ("horizon", horizon, 1))
        for key, size, lowest in sizes:
            if size < lowest:
                raise ValueError(f"env.{key} must be at least {lowest}, got {size}")
        if objects not in (1, 2):
            raise ValueError(f"env.objects must be 1 or 2, got {objects!r}")
        if reward not in get_args(RewardName):
            raise ValueError(f"env.reward must be one of {', '.join(get_args(RewardName))}, got {reward!r}")
        device = torch.get_default_device() if device is None else device
        super().__init__(device=torch.device(device), batch_size=[num_envs])
        self.level = LEVELS[level] if isinstance(level, str) else level
        self.image_size = image_size
        self.objects = objects
        self.reward = reward
        self.horizon = horizon
        self._patch = patch_size(max(*DISTRACTOR_RADIUS, TARGET_RADIUS, AGENT_RADIUS), image_size)
        self._make_specs()
        self._generator = torch.Generator(self.device)
        for name, value in self._draw_episodes().items():  # gives the state its shapes, for load_state_dict
            self.register_buffer(name, value)
        self.set_seed(seed)

    def _make_specs(self) -> None:
        n, s = self.batch_size[0], self.image_size
        flag = Categorical(2, shape=(n, 1), dtype=torch.bool, device=self.device)
        position = Bounded(-1, 1, shape=(n, 2), dtype=torch.float32, device=self.device)
        centers = position if self.objects == 1 else position.unsqueeze(1).expand(n, self.objects, 2)
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, shape=(n, 3, s, s), dtype=torch.uint8, device=self.device),
            proprio=position.clone(),
            success=flag.clone(),
            truth=Composite(
                center=centers.clone(),
                agent=position.clone(),
                mask=Categorical(2, shape=(n, s, s), dtype=torch.bool, device=self.device),
                shape=(n,),
            ),
            shape=(n,),
        )
        self.action_spec = position.clone()
        self.reward_spec = Unbounded(shape=(n, 1), dtype=torch.float32, device=self.device)
        self.full_done_spec = Composite(done=flag.clone(), terminated=flag.clone(), truncated=flag.clone(), shape=(n,))

    def _set_seed(self, seed: int | None) -> None:
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None, **kwargs) -> TensorDictBase:
        lanes = None if tensordict is None else tensordict.get("_reset", None)
        for name, value in self._draw_episodes().items():
            if lanes is not None:
                value = value.where(lanes.reshape(-1, *[1] * (value.ndim - 1)), getattr(self, name))
            setattr(self, name, value)
        return self._observe()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict["action"].detach()
        invalid = action.isnan().any(-1, keepdim=True)
        if action.device.type == "cpu" and not torch.compiler.is_compiling() and invalid.any():
            lanes = invalid.flatten().nonzero().flatten().tolist()
            raise RefusedAction(
                f"actions must be numbers, got NaN in lanes {lanes}; look for NaN in the policy's weights and input",
                tensordict,
            )
        self.center, self.velocity = _reflect(self.center + self.velocity, self.velocity)
        move = action.nan_to_num(0.0).clamp(-1, 1) * STEP
        self.center[:, -1] = (self.center[:, -1] + move).clamp_(-1, 1)
        self.elapsed = self.elapsed + 1

        observation = self._observe()
        reward = observation["success"].to(torch.float32)
        if self.reward == "dense":
            reward = reward + 0.3 * (1 - (2 * self._distance()).tanh())
        return observation.set("reward", reward.masked_fill(invalid, torch.nan))

    def _distance(self) -> Tensor:
        """Distance between the agent and its goal, the middle of the targets, [N, 1]."""
        return (self.center[:, -1] - self._targets().mean(1)).norm(dim=-1, keepdim=True)

    def _targets(self) -> Tensor:
        """Centres of the targets, [N, M, 2]."""
        return self.center[:, self.level.distractors : -1]

    def _observe(self) -> TensorDict:
        # Copies throughout: the state changes in place, what was handed out must not.
        targets, agent = self._targets().clone(), self.center[:, -1].clone()
        truncated = self.elapsed >= self.horizon
        return TensorDict(
            {
                "pixels": self._render(),
                "proprio": agent,
                "success": self._distance() < SUCCESS_DISTANCE,
                "truth": {
                    "center": targets.squeeze(1),  # one target has no dimension of its own
                    "agent": agent.clone(),
                    "mask": disk_mask(targets, TARGET_RADIUS, self.image_size).any(1),
                },
                "done": truncated,
                "truncated": truncated.clone(),
                "terminated": torch.zeros_like(truncated),
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _render(self) -> Tensor:
        canvas = self.backdrop.clone()
        if self.level.moving:
            self._paint_distractors(canvas, self.center, self.radius, self.color)
        k, p = self.level.distractors, self._patch
        paint(canvas, self.center[:, k:], self.radius[:, k:], self.color[:, k:], p)
        return canvas[..., p:-p, p:-p].contiguous()

    def _paint_distractors(self, canvas: Tensor, center: Tensor, radius: Tensor, color: Tensor) -> None:
        k, squares, rings = self.level.distractors, self.level.squares, self.level.rings
        paint(
            canvas,
            center[:, :k],
            radius[:, :k],
            color[:, :k],
            self._patch,
            squares=slice(k - rings - squares, k - rings),
            rings=slice(k - rings, k),
        )

    def _draw_episodes(self) -> dict[str, Tensor]:
        """Draws new episodes for all lanes: the env's whole state."""
        n, level = self.batch_size[0], self.level
        drawn = draw_objects(level, self.objects, n, self._generator)
        noise = uniform(*level.brightness, (n, 3, level.grid, level.grid), self._generator)
        backdrop = pad(background(noise, self.image_size), [self._patch] * 4)
        if not level.moving:
            self._paint_distractors(backdrop, drawn["center"], drawn["radius"], drawn["color"])
        elapsed = torch.zeros(n, 1, dtype=torch.int64, device=self.device)
        return {**drawn, "backdrop": backdrop, "elapsed": elapsed}

    def to(self, device: torch.device | str | int) -> "ClutterEnv":
        """Moves the env; on another device its generator starts anew from its seed."""
        super().to(device)
        if self._generator.device != self.device:
            self._generator = torch.Generator(self.device).manual_seed(self._generator.initial_seed())
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, _ in self.named_buffers(recurse=False):  # copies: load_state_dict writes into the state itself
            destination[prefix + name] = destination[prefix + name].clone()

    def get_extra_state(self) -> Tensor:
        """State of the random generator, uint8, for `state_dict`."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the random generator, for `load_state_dict`."""
        self._generator.set_state(state.cpu())


def _reflect(position: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
    """Mirrors what left [-1, 1] back into it and turns its velocity; for displacements up to 2."""
    out = position.abs() > 1
    return torch.where(out, 2 * position.sign() - position, position), torch.where(out, -velocity, velocity)
