"""The wrapper is ManiSkill's environment, without its leaks, its clock and its random numbers."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs import check_env_specs
from torchrl.envs.utils import step_mdp

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from tests.envs.maniskill_support import raw_scene, skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

HORIZON = 4


@pytest.fixture(scope="module")
def env():
    env = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=32, horizon=HORIZON)
    yield env
    env.close()


def random_actions(env, steps):
    """[steps, k, A], always the same."""
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(steps, *env.action_spec.shape, generator=generator) - 1


def play(env, actions, seed):
    """Play given actions from a seeded reset: the first observation, and the steps' results [steps, k]."""
    env.set_seed(seed)
    first = env.reset()
    td, steps = first, []
    for action in actions:
        steps.append(env.step(td.set("action", action))["next"])
        td = step_mdp(td)
    return first, torch.stack(steps)


def assert_same(one, other):
    assert (one == other).all(), one.apply(lambda a, b: (a != b).sum(), other, batch_size=[]).to_dict()


@pytest.mark.parametrize("seed", [0, 3])
def test_specs(env, seed):
    check_env_specs(env, seed=seed)
    assert env.batch_size == (2,)
    assert env.batch_locked


def assert_raw(step, row, observation, reward=None, info=None):
    """A row of our tensordict is what ManiSkill returned."""
    picture = observation["sensor_data"]["base_camera"]["rgb"][0].permute(2, 0, 1)
    assert torch.equal(step["pixels"][row], picture)
    state = [observation["agent"]["qpos"], observation["agent"]["qvel"], observation["extra"]["tcp_pose"]]
    assert torch.equal(step["proprio"][row], torch.cat(state, -1)[0])
    if info is not None:
        assert step["reward"][row].item() == reward.item()
        assert step["success"][row].item() == info["success"].item()


@pytest.mark.parametrize("control_mode", ["pd_joint_delta_pos", "pd_ee_delta_pos"])
def test_is_maniskill_frame_by_frame(control_mode):
    """A whole episode, and the end that ManiSkill gives it."""
    env = ManiSkillEnv("PushCube-v1", num_envs=1, low_poly=False, image_size=32, control_mode=control_mode)
    raw = raw_scene("PushCube-v1", control_mode)
    actions = random_actions(env, env.horizon)
    first, steps = play(env, actions, seed=7)
    observation, _ = raw.reset(seed=int(env.simulation.scenes[0]._episode_seed[0]))
    assert_raw(first, 0, observation)
    for t, action in enumerate(actions):
        observation, reward, _, truncated, info = raw.step(action[0])
        assert_raw(steps[t], 0, observation, reward, info)
        assert steps["truncated"][t].item() == truncated.item() == (t == 49)
    env.close()
    raw.close()


def test_is_maniskill_over_episodes_and_partial_resets():
    """Two scenes, ended at different steps by a mask and by the horizon: each goes on as ManiSkill's own."""
    env = ManiSkillEnv("StackCube-v1", num_envs=2, low_poly=False, image_size=32, horizon=4)
    raws = [raw_scene("StackCube-v1") for _ in range(2)]
    env.set_seed(1)
    td, begins = env.reset(), [True, True]
    ends = 0
    for t, action in enumerate(random_actions(env, 11)):
        for row, raw in enumerate(raws):
            if begins[row]:
                seed = int(env.simulation.scenes[row]._episode_seed[0])
                assert_raw(td, row, raw.reset(seed=seed)[0])
        step, td = env.step_and_maybe_reset(td.set("action", action))
        for row, raw in enumerate(raws):
            observation, reward, _, _, info = raw.step(action[row])
            assert_raw(step["next"], row, observation, reward, info)
        begins = step["next", "done"].flatten().tolist()
        ends += sum(begins)
        if t == 1:
            td, begins = env.reset(td.set("_reset", torch.tensor([[False], [True]]))), [False, True]
    assert ends == 4
    env.close()


def test_privileged_is_left_out_by_default(env):
    assert "privileged" not in env.reset()
    assert "privileged" not in env.observation_spec


def test_same_seed_same_episode(env):
    actions = random_actions(env, HORIZON)
    first, steps = play(env, actions, seed=5)
    first_again, steps_again = play(env, actions, seed=5)
    assert_same(first, first_again)
    assert_same(steps, steps_again)
    other, _ = play(env, actions, seed=6)
    assert (other["proprio"] != first["proprio"]).any()
    assert (first["proprio"][0] != first["proprio"][1]).any(), "the scenes of a batch are different episodes"


def test_truncated_at_the_horizon_and_never_terminated(env):
    rollout = env.rollout(3 * HORIZON, break_when_any_done=False)
    step = torch.arange(3 * HORIZON).expand(2, -1).unsqueeze(-1)
    assert (rollout["next", "truncated"] == (step % HORIZON == HORIZON - 1)).all()
    assert (rollout["next", "done"] == rollout["next", "truncated"]).all()
    assert not rollout["next", "terminated"].any()


def test_last_observation_of_an_episode_is_kept(env):
    env.set_seed(0)
    rollout = env.rollout(2 * HORIZON, break_when_any_done=False)
    longer = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=32, horizon=HORIZON + 1)
    _, steps = play(longer, rollout["action"][:, :HORIZON].transpose(0, 1), seed=0)
    for key in ("pixels", "proprio", "reward", "success"):
        assert (rollout["next", key][:, :HORIZON] == steps[key].transpose(0, 1)).all()
    assert (rollout["proprio"][:, HORIZON] != rollout["next", "proprio"][:, HORIZON - 1]).any(-1).all()
    longer.close()


def test_partial_reset(env):
    actions = random_actions(env, HORIZON)
    _, expected = play(env, actions, seed=2)

    env.set_seed(2)
    td = env.reset()
    results = []
    for t, action in enumerate(actions):
        if t == 2:
            handed_out = results[-1].clone()
            td["_reset"] = torch.tensor([[True], [False]])
            reset = env.reset(td.clone())
            assert (reset["proprio"][0] != td["proprio"][0]).any()
            assert (reset["pixels"][1] == td["pixels"][1]).all()
            assert_same(handed_out, results[-1])
            td = reset
        results.append(env.step(td.set("action", action))["next"])
        td = step_mdp(td)
    steps = torch.stack(results)
    assert_same(steps[:, 1], expected[:, 1])
    assert steps["truncated"][:, :, 0].tolist() == [[False, False]] * 3 + [[False, True]]


def test_an_episode_does_not_depend_on_resets_of_other_scenes(env):
    def second_scene(resets_of_the_first):
        env.set_seed(4)
        env.reset()
        for _ in range(resets_of_the_first):
            env.reset(TensorDict({"_reset": torch.tensor([[True], [False]])}, [2]))
        return env.reset()["proprio"][1]

    assert (second_scene(0) == second_scene(2)).all()


def test_global_random_numbers_are_left_alone():
    def streams():
        numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 (the global stream is meant)
        return torch.get_rng_state().tolist(), numpy_state, random.getstate()

    before = streams()
    env = ManiSkillEnv("PickCube-v1", num_envs=1, image_size=16)
    action = random_actions(env, 1)[0]
    env.set_seed(0)
    first = env.reset()["proprio"]
    env.step(env.reset().set("action", action))
    assert streams() == before

    torch.manual_seed(99)
    env.set_seed(0)
    assert (env.reset()["proprio"] == first).all()
    env.close()


def test_cameras():
    views = []
    for camera in ("base_camera", "hand_camera"):
        env = ManiSkillEnv("StackCube-v1", num_envs=1, image_size=16, cameras=[camera])
        env.set_seed(0)
        views.append(env.reset()["pixels"])
        assert list(env.simulation.scenes[0].scene.sensors) == [camera], "other cameras would be drawn for nothing"
        env.close()
    assert (views[0] != views[1]).any()


def test_close_frees_the_scenes():
    env = ManiSkillEnv("MS-CartpoleBalance-v1", num_envs=1, image_size=16)
    scene = weakref.ref(env.simulation.scenes[0].scene)
    env.close()
    gc.collect()  # ManiSkill's objects refer to each other
    assert env.is_closed
    assert scene() is None
    env.close()


CHANGES = {"distractors": {"distractors": 3}, "shift": {"shift": "lighting-3"}, "both": {"shift": "distractors-1"}}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_other_looks_are_the_same_task(env, changes):
    """Distractors and shifts through the wrapper: other pictures, and everything else bit by bit the same."""
    other = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=32, horizon=HORIZON, **changes)
    actions = random_actions(env, HORIZON)
    (first, steps), (other_first, other_steps) = (play(one, actions, seed=5) for one in (env, other))
    assert (other_first["pixels"] != first["pixels"]).flatten(1).any(-1).all(), "both scenes look different"
    for key in ("proprio", "reward", "success", "done", ("truth", "center")):
        assert torch.equal(other_steps[key], steps[key]), key
    other.close()


def test_scenes_have_different_distractors():
    env = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=32, distractors=3)
    sizes = [
        [shape.half_size.tolist() for look in scene._looks[0] for shape in [look]] for scene in env.simulation.scenes
    ]
    assert sizes[0] != sizes[1]
    env.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_action_that_is_not_finite(env, value):
    action = torch.zeros(env.action_spec.shape)
    action[1, 3] = value
    with pytest.raises(ValueError, match="action must be finite"):
        env.step(env.reset().set("action", action))


def test_action_of_wrong_shape(env):
    with pytest.raises(ValueError, match=r"action must have shape \(2, 8\), got \(2, 7\)"):
        env.step(env.reset().set("action", torch.zeros(2, 7)))
