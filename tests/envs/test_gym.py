"""Gymnasium tasks keep TorchRL's contract, and are Gymnasium's tasks."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from torchrl.envs.utils import RandomPolicy

from gaze_torchrl.envs.gym import GymEnv
from gaze_torchrl.envs.wrapping import lane_seeds
from gaze_torchrl.training.evaluation import rollout_episodes
from tests.envs import contract

gymnasium = pytest.importorskip("gymnasium", reason='pip install "gaze_torchrl[gym]"')
for package in ("Box2D", "pygame"):
    pytest.importorskip(package, reason='pip install "gaze_torchrl[gym]"')


def car(**kwargs) -> GymEnv:
    return GymEnv("CarRacing-v3", **{"num_envs": 2, **kwargs})


def test_contract():
    env = car()
    contract.check_contract(env, 64)
    contract.check_partial_reset(env)
    assert env.action_spec.space.low.tolist() == [[-1, 0, 0]] * 2
    assert env.action_spec.space.high.tolist() == [[1, 1, 1]] * 2


def test_seeds():
    contract.check_seeds(car, steps=5)


def test_horizon_and_collector():
    env = car(horizon=4, image_size=32)
    contract.check_horizon(env, 4)
    contract.check_collector(env)


def test_frame_stack():
    contract.check_frame_stack(car)


def test_is_gymnasiums_task_frame_by_frame():
    env = car(frame_skip=3)
    lanes = [gymnasium.make("CarRacing-v3") for _ in range(2)]
    actions = contract.actions_for(env, 12)
    roots, results = contract.play(env, actions, seed=7)
    for i, lane in enumerate(lanes):
        lane.reset(seed=lane_seeds(7, 2)[i])  # TorchRL's set_seed
        frame, _ = lane.reset()
        for t, action in enumerate(actions):
            small = Image.fromarray(frame).resize((64, 64), Image.Resampling.BOX)
            assert np.array_equal(roots["pixels"][i, t].movedim(0, -1), small)
            steps = [lane.step(action[i].numpy()) for _ in range(3)]
            frame = steps[-1][0]
            assert results["reward"][i, t].item() == pytest.approx(sum(step[1] for step in steps))
        lane.close()


def test_episodes_end_and_begin_as_gymnasiums():
    env = GymEnv("CartPole-v1", num_envs=2, image_size=32, proprio=True)
    actions = contract.actions_for(env, 60)
    _, results = contract.play(env, actions, seed=3)
    assert results["proprio"].shape == (2, 60, 4)
    for i in range(2):
        lane = gymnasium.make("CartPole-v1")
        lane.reset(seed=lane_seeds(3, 2)[i])  # TorchRL's set_seed
        lane.reset()
        for t, action in enumerate(actions):
            state, reward, terminated, truncated, _ = lane.step(action[i].item())
            assert np.array_equal(results["proprio"][i, t], state)  # of an episode's last step too
            assert results["reward"][i, t].item() == reward
            assert results["terminated"][i, t].item() == terminated
            assert results["truncated"][i, t].item() == truncated
            if terminated or truncated:
                lane.reset()
        lane.close()
    env.close()
    assert (results["done"].sum(1) > 1).all()


@pytest.mark.parametrize("frame_stack", [1, 2])
def test_an_evaluation_waits_for_its_last_episode(frame_stack):
    env = GymEnv("CartPole-v1", num_envs=4, image_size=32, frame_stack=frame_stack)
    torch.manual_seed(0)
    steps = rollout_episodes(env, RandomPolicy(env.action_spec), seed=5)
    env.close()
    lengths = steps["mask"].sum(-1)
    assert lengths.max() == steps.shape[1] > lengths.min()
    for row, length in zip(steps, lengths.tolist(), strict=True):
        assert row["next", "terminated"][length - 1]
        assert not row["next", "done"][: length - 1].any()
        assert (row["next", "reward"][:length] == 1).all()


def test_actions_out_of_bounds_are_those_at_the_bounds():
    """The task itself takes its price for what it is given: 0.1 times the square."""
    env, rewards = GymEnv("MountainCarContinuous-v0", num_envs=1, image_size=16), []
    for action in (1.0, 5.0):
        env.set_seed(0)
        td = env.step(env.reset().set("action", torch.full((1, 1), action)))
        rewards.append(float(td["next", "reward"]))
        assert td["action"].item() == action, "the rollout keeps what was drawn"
    assert rewards == pytest.approx([-0.1, -0.1])
    env.close()


@pytest.mark.parametrize(("task", "proprio"), [("Pendulum-v1", False), ("CartPole-v1", True)])
def test_pictures_that_are_rendered(task, proprio):
    env = GymEnv(task, num_envs=2, proprio=proprio)
    contract.check_contract(env, 64)
    assert ("proprio" in env.observation_spec) == proprio
    env.close()


def test_areas_are_averaged():
    halves, exact = (car(image_size=size, num_envs=1).reset(seed=0)["pixels"].float() for size in (48, 96))
    assert (halves - torch.nn.functional.avg_pool2d(exact, 2)).abs().max() <= 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "CarRacin-v3"}, "env.task='CarRacin-v3' is no Gymnasium task.*CarRacing"),
        ({"num_envs": 0}, "env.num_envs must be at least 1, got 0"),
        ({"frame_skip": 0}, "env.frame_skip must be at least 1, got 0"),
        ({"horizon": 0}, "env.horizon must be at least 1, got 0"),
        ({"proprio": True}, "env.proprio must be false for CarRacing-v3"),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GymEnv(**kwargs)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'gymnasium is not installed: pip install "gaze_torchrl\[gym\]"'):
        GymEnv()


def test_says_what_a_task_needs(monkeypatch):
    def missing(*args, **kwargs):
        raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(ImportError, match=r'env.task=.* pip install "gaze_torchrl\[gym\]" \(Box2D'):
        GymEnv()
