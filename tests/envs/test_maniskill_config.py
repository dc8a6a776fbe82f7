"""What cannot be configured is refused by the name of its key; the YAML of the tasks says what ManiSkill says."""

import pytest

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_tasks import TASKS
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "env.num_envs must be at least 1, got 0"),
        ({"image_size": 0}, "env.image_size must be at least 1, got 0"),
        ({"horizon": 0}, "env.horizon must be at least 1, got 0"),
        (
            {"task": "PushCub-v1"},
            "env.task='PushCub-v1' is no ManiSkill task; choose one of PushCube-v1, PullC",
        ),
        (
            {"task": "PickSingleYCB-v1"},
            "env.task='PickSingleYCB-v1' needs assets .* choose one of PushCube-v1",
        ),
        ({"task": "TwoRobotPickCube-v1"}, "is not supported; choose one of PushCube-v1"),
        (
            {"control_mode": "telepathy"},
            r"env.control_mode: telepathy not in supported modes: \['pd_joint_delta",
        ),
        ({"reward_mode": "kind"}, r"env.reward_mode must be one of \('normalized_dense', .* got 'kind'"),
        (
            {"task": "PullCube-v1", "proprio": ["qpos", "goal_pos"]},
            r"env.proprio may hold \['qpos', 'qvel', 'tcp_pose'\] of PullCube-v1, got \['goal_pos'\]",
        ),
        ({"cameras": ["hand"]}, r"env.cameras must be some of \['base_camera'\], got \['hand'\]"),
    ],
)
def test_errors_name_the_config_key(arguments, message, monkeypatch):
    def refuse(*_):
        raise AssertionError("asked the user something")

    monkeypatch.setattr("builtins.input", refuse)
    with pytest.raises(ValueError, match=message):
        ManiSkillEnv(**{"num_envs": 1, **arguments})


def test_maniskill_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "gaze_torchrl\[maniskill\]"'):
        ManiSkillEnv()


def test_task_files_say_what_maniskill_says():
    """Horizon, control mode and state of every task's YAML, and that each file has them."""
    from gaze_torchrl.envs.maniskill_tasks import task_specification
    from gaze_torchrl.training.config import compose_config

    for task, its in TASKS.items():
        config = compose_config(["env=maniskill", f"task={task}"])
        assert config.env.horizon == config.task.horizon == task_specification(task).max_episode_steps
        assert tuple(config.env.proprio) == its.proprio
        assert config.env.control_mode == "pd_joint_delta_pos"
