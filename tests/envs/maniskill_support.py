"""ManiSkill in tests: its tasks, its scenes, and a skip that says what to install where they cannot run."""

import importlib.util

import pytest

from gaze_torchrl.envs.rendering import RendererNotFound, require_renderer


def skip_without_maniskill() -> None:
    """Call at the top of a test module: it is skipped as a whole if ManiSkill or a renderer is missing."""
    if importlib.util.find_spec("mani_skill") is None:
        pytest.skip('ManiSkill is missing: pip install "gaze_torchrl[maniskill]"', allow_module_level=True)
    try:
        require_renderer()
    except RendererNotFound as error:
        pytest.skip(str(error), allow_module_level=True)


def task_class(task: str) -> type:
    """ManiSkill's own class of a task."""
    import mani_skill.envs  # noqa: F401
    from mani_skill.utils.registration import REGISTERED_ENVS

    return REGISTERED_ENVS[task].cls


def raw_scene(task, control_mode="pd_joint_delta_pos"):
    """ManiSkill's own environment, as its users make it."""
    import gymnasium
    import mani_skill.envs  # noqa: F401

    return gymnasium.make(
        task,
        obs_mode="rgb",
        control_mode=control_mode,
        reward_mode="normalized_dense",
        sensor_configs={"width": 32, "height": 32, "shader_pack": "minimal"},
        render_backend="cpu",
    )
