"""Skips tests of ManiSkill, with a line that says what to install, where they cannot run; finds its tasks."""

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
