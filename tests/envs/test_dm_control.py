"""DeepMind Control tasks keep TorchRL's contract, and are the suite's tasks."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from gaze_torchrl.envs import dm_control
from gaze_torchrl.envs.dm_control import DMControlEnv
from gaze_torchrl.envs.rendering import RendererNotFound
from tests.envs import contract

pytest.importorskip("dm_control", reason='pip install "gaze_torchrl[dm_control]"')
try:
    suite = dm_control._load_suite()
except RendererNotFound as error:
    pytest.skip(str(error), allow_module_level=True)


def scenes(task: str = "cartpole-swingup", **kwargs) -> DMControlEnv:
    return DMControlEnv(task, **{"num_envs": 2, **kwargs})


@pytest.mark.parametrize("task", ["cartpole-swingup", "walker-walk"])
def test_contract(task):
    env = scenes(task)
    contract.check_contract(env, 64)
    contract.check_partial_reset(env)
    assert env.action_spec.space.low.min() == -1
    assert env.action_spec.space.high.max() == 1
    assert "proprio" not in env.observation_spec


def test_seeds():
    contract.check_seeds(scenes, steps=8)


def test_horizon_and_collector():
    env = scenes(horizon=4, image_size=32)
    contract.check_horizon(env, 4)
    contract.check_collector(env)


def test_frame_stack():
    contract.check_frame_stack(scenes)


def test_truncated_at_the_suites_limit():
    env = scenes(image_size=16, frame_skip=100)
    contract.check_horizon(env, 10)


@pytest.mark.parametrize("low_cost", [False, True])
def test_is_the_suites_task_frame_by_frame(low_cost):
    env = scenes("walker-walk", num_envs=1, frame_skip=3, low_cost=low_cost, proprio=True)
    scene = suite.load("walker", "walk")
    physics = scene.physics
    env.set_seed(4)
    td = env.reset()
    ours = env.base_env._envs[0].base_env._env.physics
    scene.reset()
    with physics.reset_context():
        physics.set_state(ours.get_state())
    for action in contract.actions_for(env, 6):
        picture = td["pixels"][0].movedim(0, -1).numpy()
        stock = physics.render(64, 64, camera_id=0)
        assert np.array_equal(picture, stock) != low_cost
        td = env.step(td.set("action", action))["next"]
        steps = [scene.step(action[0].numpy()) for _ in range(3)]
        assert td["reward"].item() == pytest.approx(sum(step.reward for step in steps), rel=1e-5)
        state = np.concatenate([np.atleast_1d(value) for value in steps[-1].observation.values()])
        assert td["proprio"][0].numpy() == pytest.approx(state, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "walker-fly"}, "env.task must be one of .*walker-walk.*; got 'walker-fly'"),
        ({"num_envs": 0}, "env.num_envs must be at least 1, got 0"),
        ({"frame_stack": 0}, "env.frame_stack must be at least 1, got 0"),
        ({"camera": 9}, "env.camera must be from 0 to [0-9] for cartpole-swingup, got 9"),
    ],
)
def test_refuses(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DMControlEnv(**kwargs)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'dm_control is not installed: pip install "gaze_torchrl\[dm_control\]"'):
        DMControlEnv()


def test_says_what_opengl_needs():
    command = "from gaze_torchrl.envs import DMControlEnv; DMControlEnv()"
    environment = {**os.environ, "MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}
    child = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    last = child.stderr.splitlines()[-1]
    assert "RendererNotFound: OpenGL cannot draw with MUJOCO_GL=egl" in last
    assert "apt-get install libegl1" in last
