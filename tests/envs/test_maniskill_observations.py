"""What the policy is told of a ManiSkill task, which is never the answer, and where the truth says the object is."""

import numpy as np
import pytest
import torch
from torchrl.envs import check_env_specs

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_simulation import _project
from gaze_torchrl.envs.maniskill_tasks import TASKS
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

# All that ManiSkill's state holds of each task besides, and that the policy is not told.
WITHHELD = {
    "PushCube-v1": "goal_pos obj_pose",
    "PullCube-v1": "goal_pos obj_pose",
    "PickCube-v1": "is_grasped obj_pose tcp_to_obj_pos obj_to_goal_pos",
    "PokeCube-v1": "cube_pose peg_pose goal_pos tcp_to_peg_pos peg_to_cube_pos cube_to_goal_pos peghead_to_cube_pos",
    "LiftPegUpright-v1": "obj_pose",
    "RollBall-v1": "goal_pos ball_pose ball_vel tcp_to_ball_pos ball_to_goal_pos",
    "PullCubeTool-v1": "cube_pose tool_pose",
    "PlaceSphere-v1": "is_grasped bin_pos obj_pose tcp_to_obj_pos",
    "PushT-v1": "goal_pos obj_pose",
    "StackCube-v1": "cubeA_pose cubeB_pose tcp_to_cubeA_pos tcp_to_cubeB_pos cubeA_to_cubeB_pos",
    "PegInsertionSide-v1": "peg_pose peg_half_size box_hole_pose box_hole_radius",
    "MS-CartpoleBalance-v1": "qpos qvel velocity angular_velocity",
    "MS-CartpoleSwingUp-v1": "qpos qvel velocity angular_velocity",
}
TOLD = {task: "qpos qvel tcp_pose" for task in WITHHELD if not task.startswith("MS-Cartpole")} | {
    "PickCube-v1": "qpos qvel tcp_pose goal_pos",  # a point in the air that no picture shows
    "MS-CartpoleBalance-v1": "",
    "MS-CartpoleSwingUp-v1": "",
}
PROPRIO_WIDTH = {task: 25 for task in TASKS if not task.startswith("MS-Cartpole")} | {
    "PickCube-v1": 28,
    "PushT-v1": 21,  # a stick instead of two fingers
}


def look(env):
    """What is seen of a single scene after it was changed."""
    simulation, (scene,) = env.simulation, env.simulation.scenes
    info = scene.get_info()
    return simulation._read([simulation._seen(scene, scene.get_obs(info), info)])


@pytest.mark.parametrize("task", TASKS)
def test_every_entry_of_the_state_is_told_or_withheld(task):
    """A later ManiSkill may add one: somebody should look at it."""
    env = ManiSkillEnv(task, num_envs=1, image_size=16, privileged=True)
    scene = env.simulation.scenes[0]
    observation = scene.get_obs(scene.get_info())
    assert list(TASKS[task].proprio) == TOLD[task].split()
    assert {*observation["agent"], *observation["extra"]} == {*TOLD[task].split(), *WITHHELD[task].split()}
    env.close()


@pytest.mark.parametrize("task", PROPRIO_WIDTH)
def test_proprio_does_not_give_the_answer_away(task):
    env = ManiSkillEnv(task, num_envs=1, image_size=16, privileged=True)
    before = env.reset()
    assert set(env.observation_spec.keys()) == {"pixels", "proprio", "privileged", "success", "truth"}
    assert before["proprio"].shape == (1, PROPRIO_WIDTH[task])
    assert before["pixels"].shape == (1, 3, 16, 16)
    # Move all that the camera sees but the robot: only the privileged state may notice.
    scene = env.simulation.scenes[0]
    for name, actor in scene.scene.actors.items():
        if actor.px_body_type != "static" and not (task == "PickCube-v1" and name == "goal_site"):
            pose = actor.pose.sp
            actor.set_pose(type(pose)(pose.p + np.array([0.03, 0.05, 0]), pose.q))
    after = look(env)
    assert (after["proprio"] == before["proprio"]).all()
    assert (after["privileged"] != before["privileged"]).any()
    env.close()


@pytest.mark.parametrize("task", [task for task, its in TASKS.items() if its.target])
def test_truth_is_where_the_object_is(task):
    """Moving the object changes the picture at its pixels, old and new, and nowhere else but for its shadow."""
    env = ManiSkillEnv(task, num_envs=1, image_size=128)
    env.set_seed(0)
    scene, resets = env.simulation.scenes[0], (env.reset() for _ in range(5))
    before = next(one for one in resets if one["truth", "mask"].any())  # PegInsertionSide's peg may be out of view
    target = getattr(scene, TASKS[task].target)
    mask, center = before["truth", "mask"][0], before["truth", "center"][0]
    assert 10 < mask.sum() < 2000
    rows, columns = mask.nonzero(as_tuple=True)
    if task != "PegInsertionSide-v1":  # its camera sees the end of the peg only
        middle = torch.stack([columns.float().mean(), rows.float().mean()]) * 2 / 127 - 1
        assert (middle - center).norm() < 0.1
    pose = target.pose.sp
    target.set_pose(type(pose)(pose.p + np.array([0.0, 0.0, -5.0]), pose.q))
    after = look(env)
    assert not after["mask"].any()
    changed = (after["pixels"].int() - before["pixels"].int())[0].abs().amax(0)
    assert (changed[mask] > 8).float().mean() > 0.7
    assert changed[mask].float().mean() > 10 * changed[~mask].float().mean()
    env.close()


@pytest.mark.parametrize("task", sorted(TASKS.keys() - PROPRIO_WIDTH.keys()))
def test_no_proprio_where_the_joints_are_the_answer(task):
    env = ManiSkillEnv(task, num_envs=1, image_size=16)
    assert set(env.observation_spec.keys()) == {"pixels", "success"}
    check_env_specs(env)
    env.close()


def test_some_of_what_may_be_felt():
    env = ManiSkillEnv("PickCube-v1", num_envs=1, image_size=16, proprio=["tcp_pose", "goal_pos"])
    assert env.reset()["proprio"].shape == (1, 7 + 3)
    assert "proprio" not in ManiSkillEnv("PushCube-v1", num_envs=1, image_size=16, proprio=[]).observation_spec


def test_what_is_behind_the_camera_is_outside_its_picture():
    """On the side where it is; a plain projection mirrors it into the picture."""
    intrinsic = torch.tensor([[[32.0, 0, 32], [0, 32, 32], [0, 0, 1]]]).expand(3, -1, -1)
    extrinsic = torch.eye(4)[:3].expand(3, -1, -1)
    place = torch.tensor([[0.3, -0.4, 1.0], [0.3, -0.4, -1.0], [0.0, 0.0, -1.0]])
    center = _project(place, extrinsic, intrinsic, 64)
    torch.testing.assert_close(center[0], torch.tensor([0.3, -0.4]))
    torch.testing.assert_close(center[1], torch.tensor([1.2, -1.6]), atol=1e-4, rtol=0)
    assert center[2].norm().item() == pytest.approx(2)


def test_an_exception_within_a_skip_leaves_no_blind_scene(monkeypatch):
    env = ManiSkillEnv(task="PushCube-v1", num_envs=1, image_size=32, frame_skip=2)
    td, scene = env.reset(), env.simulation.scenes[0]
    with monkeypatch.context() as patch:
        patch.setattr(type(scene), "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.rand_step(td)
    assert env.reset()["pixels"].any()
    env.close()
