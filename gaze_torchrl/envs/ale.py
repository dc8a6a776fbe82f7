"""Atari games, stepped by the Arcade Learning Environment's own vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from torchrl.data.utils import DEVICE_TYPING

from gaze_torchrl.envs.wrapping import VectorWrapper, WrappedEnv, check_at_least_one, require
from gaze_torchrl.registry import register

__all__ = ["ALEEnv"]


@register("env", "ale")
class ALEEnv(WrappedEnv):
    """A batch of N Atari games, emulated, stacked and scaled in native threads; ROMs come with ``ale-py``.

    By default the three channels of `pixels` are the last three frames in grey: encoders for colours fit, and the
    policy sees motion. Lanes are reset by TorchRL's `"_reset"` mask and never behind its back: ``("next", "pixels")``
    holds the true last picture of a game.

    ============ ============ ======= ========================================================================
    key          shape        dtype   meaning
    ============ ============ ======= ========================================================================
    `pixels`     [N, C, H, W] uint8   the stacked frames, the last one last; C = frame_stack, or 3 frame_stack
    `action`     [N]          int64   index of one of the game's actions (`Categorical`)
    `reward`     [N, 1]       float32 the score's change, or its sign
    ============ ============ ======= ========================================================================

    Args:
        task: the game, such as ``"Pong"``: what stands between ``"ALE/"`` and ``"-v5"`` in Gymnasium's registry.
        num_envs: number N of games, at least 1.
        image_size: height and width of the pictures in pixels.
        frame_skip: emulated frames per step, at least 1; a frame is the brighter of the skip's last two.
        frame_stack: frames in `pixels`, at least 1.
        grayscale: one channel per frame, instead of three.
        sticky_actions: probability in [0, 1) that an emulated frame repeats the action before.
        noop_max: an episode starts after up to so many frames of doing nothing, at least 0.
        clip_rewards: reward the sign of the score's change. Returns are then no scores.
        episodic_life: terminate an episode when a life is lost. The next one is a new game, with all lives: so ALE's
            vector environment does it.
        horizon: steps after which an episode is truncated, at least 1; 4500 with a skip of 4 are five minutes of play.
            None: ALE's limit of 108000 emulated frames.
        num_threads: native threads, at least 0. 0: as many as cores. Results do not depend on it.
        device: where the tensors shall be. None: the CPU.

    Raises:
        ModuleNotFoundError: if ``ale-py`` is not installed.
        ValueError: if an argument is out of its range, or there is no such game.

    References:
        Bellemare et al., The Arcade Learning Environment, 2013. Machado et al., Revisiting the Arcade Learning
        Environment, 2018 (sticky actions).

    Example:
        >>> env = ALEEnv("Pong", num_envs=2)  # doctest: +SKIP
        >>> env.rollout(10)["next", "pixels"].shape  # doctest: +SKIP
        torch.Size([2, 10, 3, 64, 64])
    """

    def __init__(
        self,
        task: str = "Pong",
        num_envs: int = 8,
        image_size: int = 64,
        frame_skip: int = 4,
        frame_stack: int = 3,
        grayscale: bool = True,
        sticky_actions: float = 0.25,
        noop_max: int = 30,
        clip_rewards: bool = True,
        episodic_life: bool = False,
        horizon: int | None = 4500,
        num_threads: int = 0,
        device: DEVICE_TYPING | None = None,
    ) -> None:
        check_at_least_one(
            num_envs=num_envs, image_size=image_size, frame_skip=frame_skip, frame_stack=frame_stack, horizon=horizon
        )
        if not 0 <= sticky_actions < 1:
            raise ValueError(f"env.sticky_actions must be in [0, 1), got {sticky_actions}.")
        require("ale_py", extra="ale")
        import ale_py  # noqa: F401  (registers the games)
        import gymnasium

        try:
            games = gymnasium.make_vec(
                f"ALE/{task}-v5",
                num_envs,
                vectorization_mode="vector_entry_point",
                img_height=image_size,
                img_width=image_size,
                frameskip=frame_skip,
                stack_num=frame_stack,
                grayscale=grayscale,
                repeat_action_probability=sticky_actions,
                noop_max=noop_max,
                reward_clipping=clip_rewards,
                episodic_life=episodic_life,
                num_threads=num_threads,
            )
        except gymnasium.error.UnregisteredEnv as error:
            names = sorted(name[4:-3] for name in gymnasium.registry if name.startswith("ALE/"))
            raise ValueError(f"env.task={task!r} is no game of ALE; choose one of {', '.join(names)}.") from error
        env = VectorWrapper(_channels_first(games), categorical_action_encoding=True)
        super().__init__(env, horizon=horizon, device=device)


def _channels_first(games: Any) -> Any:
    """The games with the observation {pixels}, and resets left to the caller."""
    from gymnasium.spaces import Box, Dict
    from gymnasium.vector import AutoresetMode, VectorObservationWrapper

    class ChannelsFirst(VectorObservationWrapper):
        # ALE would reset an ended game at its next step. A game that was reset by its mask before that it does not
        # reset again; and VectorWrapper never steps an ended game without a reset.
        autoreset_mode = AutoresetMode.DISABLED

        def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
            seeds: Any = seed if seed is None else np.array(seed)
            return super().reset(seed=seeds, options=options)

        def observations(self, observations: np.ndarray) -> dict[str, np.ndarray]:
            n, frames, height, width = observations.shape[:4]
            colours = observations.reshape(n, frames, height, width, -1)
            return {"pixels": colours.transpose(0, 1, 4, 2, 3).reshape(n, -1, height, width)}

    wrapped = ChannelsFirst(games)
    shape = wrapped.observations(games.observation_space.sample())["pixels"].shape
    wrapped.observation_space = Dict(pixels=Box(0, 255, shape, np.uint8))
    return wrapped
