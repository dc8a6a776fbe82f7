"""Native episodes: `terminate_on_success` ends them where ManiSkill does."""

import pytest
import torch

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from tests.envs.maniskill_support import raw_scene, skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill


@pytest.mark.parametrize("terminate_on_success", [False, True])
def test_success_ends_an_episode_only_if_asked_to(terminate_on_success):
    env = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=16, terminate_on_success=terminate_on_success)
    td = env.reset()
    assert not td["success"].any()
    scene = env.simulation.scenes[1]
    goal = scene.goal_region.pose.sp
    scene.obj.set_pose(type(goal)([goal.p[0], goal.p[1], 0.02]))
    result = env.step(td.set("action", torch.zeros(env.action_spec.shape)))["next"]
    assert result["success"].tolist() == [[False], [True]]
    assert result["terminated"].tolist() == result["done"].tolist() == [[False], [terminate_on_success]]
    assert not result["truncated"].any()
    env.close()


def test_native_episodes_end_as_maniskills():
    """Where the pole falls, ManiSkill's flag of the end is ours, at every step until then."""
    task = "MS-CartpoleBalance-v1"
    env = ManiSkillEnv(task, num_envs=1, low_poly=False, image_size=32, terminate_on_success=True)
    raw = raw_scene(task, "pd_joint_delta_pos")
    env.set_seed(3)
    td = env.reset()
    raw.reset(seed=int(env.simulation.scenes[0]._episode_seed[0]))
    push = torch.ones(env.action_spec.shape)
    for t in range(env.horizon):
        td = env.step(td.set("action", push))["next"]
        _, reward, terminated, truncated, _ = raw.step(push[0])
        ends = td["terminated"].item(), td["truncated"].item()
        assert (td["reward"].item(), *ends) == (reward.item(), terminated.item(), bool(truncated)), t
        if any(ends):
            break
    assert ends == (True, False)
    env.close()
    raw.close()


def test_failure_terminates_too():
    env = ManiSkillEnv("MS-CartpoleBalance-v1", num_envs=1, image_size=16, terminate_on_success=True)
    td = env.reset()
    env.simulation.scenes[0].agent.robot.set_qpos(torch.tensor([[0.0, 2.5]]))
    result = env.step(td.set("action", torch.zeros(env.action_spec.shape)))["next"]
    assert result["terminated"].item()
    assert not result["success"].item()
    env.close()
