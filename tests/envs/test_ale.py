"""Atari games keep TorchRL's contract, and are ALE's games across the ends of episodes."""

import importlib.util

import numpy as np
import pytest
import torch

from gaze_torchrl.envs.ale import ALEEnv
from gaze_torchrl.envs.wrapping import lane_seeds
from tests.envs import contract

pytest.importorskip("ale_py", reason='pip install "gaze_torchrl[ale]"')


def games(task: str = "Breakout", **kwargs) -> ALEEnv:
    return ALEEnv(task, **{"num_envs": 2, "num_threads": 1, **kwargs})


@pytest.mark.parametrize("task", ["Pong", "Breakout"])
def test_contract(task):
    env = games(task)
    contract.check_contract(env, 64)
    contract.check_partial_reset(env)
    assert env.action_spec.shape == (2,)
    assert env.action_spec.dtype == torch.int64
    assert env.action_spec.n == {"Pong": 6, "Breakout": 4}[task]


def test_seeds():
    contract.check_seeds(games, steps=100)


def test_horizon_and_collector():
    env = games(horizon=5, image_size=32)
    contract.check_horizon(env, 5)
    contract.check_collector(env)


@pytest.mark.parametrize(("grayscale", "episodic_life", "steps"), [(True, False, 400), (False, True, 150)])
def test_is_ale_frame_by_frame(grayscale, episodic_life, steps):
    """Against games alone in a batch, which ALE resets by itself."""
    from ale_py.vector_env import AtariVectorEnv

    env = games(grayscale=grayscale, frame_stack=2, episodic_life=episodic_life, clip_rewards=False)
    actions = contract.actions_for(env, steps)
    roots, results = contract.play(env, actions, seed=3)
    for i in range(2):
        alone = AtariVectorEnv(
            "breakout",
            num_envs=1,
            img_height=64,
            img_width=64,
            stack_num=2,
            grayscale=grayscale,
            repeat_action_probability=0.25,
            episodic_life=episodic_life,
            reward_clipping=False,
        )
        alone.reset(seed=np.array([lane_seeds(3, 2)[i]]))  # TorchRL's set_seed
        frame, _ = alone.reset()
        for t, action in enumerate(actions):
            assert np.array_equal(roots["pixels"][i, t], flat(frame))
            frame, reward, terminated, truncated, _ = alone.step(action[i : i + 1].numpy())
            assert np.array_equal(results["pixels"][i, t], flat(frame))
            assert results["reward"][i, t].item() == reward[0]
            assert results["terminated"][i, t].item() == terminated[0]
            assert results["truncated"][i, t].item() == truncated[0]
            if terminated[0] or truncated[0]:
                frame, *_ = alone.step(np.zeros(1, np.int64))  # ignores the action, returns the next episode's start
    assert results["done"].sum() > 2
    assert results["done"].any(1).all()
    assert results["reward"].any()


def flat(frame: np.ndarray) -> np.ndarray:
    """Frames [1, T, H, W] or [1, T, H, W, 3] as channels [C, H, W]."""
    return frame[0] if frame.ndim == 4 else np.concatenate([one.transpose(2, 0, 1) for one in frame[0]])


def test_channels():
    assert games().reset()["pixels"].shape == (2, 3, 64, 64)
    assert games(frame_stack=4).reset()["pixels"].shape == (2, 4, 64, 64)
    colours = games(frame_stack=1, grayscale=False).reset()["pixels"]
    assert colours.shape == (2, 3, 64, 64)
    assert (colours[:, 0] != colours[:, 2]).any()


def test_last_frame_is_the_newest():
    pixels = games("Pong").rollout(40)["next", "pixels"]
    assert pixels[:, 1:, 0].equal(pixels[:, :-1, 1])
    assert pixels[:, 1:, 1].equal(pixels[:, :-1, 2])


def test_threads_change_nothing():
    one, two = games(), games(num_threads=2)
    actions = contract.actions_for(one, 50)
    for a, b in zip(contract.play(one, actions, 0), contract.play(two, actions, 0), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "Pongg"}, "env.task='Pongg' is no game of ALE; choose one of .* Pong, "),
        ({"frame_stack": 0}, "env.frame_stack must be at least 1, got 0"),
        ({"sticky_actions": 1.0}, r"env.sticky_actions must be in \[0, 1\), got 1.0"),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ALEEnv(**kwargs)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'ale_py is not installed: pip install "gaze_torchrl\[ale\]"'):
        ALEEnv()
