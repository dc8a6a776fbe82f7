"""The ManiSkill tasks that are supported: what the policy may know of each, and what it should look at."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

__all__ = ["TASKS", "ManiSkillTask", "task_specification"]


class ManiSkillTask(NamedTuple):
    """What `ManiSkillEnv` must know of a task.

    Args:
        proprio: entries of ManiSkill's state that a robot can feel, in order.
        target: the task's attribute that holds the object to be moved, whose place is the truth for the gaze; None
            where nothing but the robot is in the scene.
    """

    proprio: tuple[str, ...]
    target: str | None


_ARM = ("qpos", "qvel", "tcp_pose")

TASKS: dict[str, ManiSkillTask] = {
    "PushCube-v1": ManiSkillTask(_ARM, "obj"),
    "PullCube-v1": ManiSkillTask(_ARM, "obj"),
    # The goal is a point in the air whose marker is hidden from the camera: no picture can show it.
    "PickCube-v1": ManiSkillTask((*_ARM, "goal_pos"), "cube"),
    "PokeCube-v1": ManiSkillTask(_ARM, "cube"),
    "LiftPegUpright-v1": ManiSkillTask(_ARM, "peg"),
    "RollBall-v1": ManiSkillTask(_ARM, "ball"),
    "PullCubeTool-v1": ManiSkillTask(_ARM, "cube"),
    "PlaceSphere-v1": ManiSkillTask(_ARM, "obj"),
    "PushT-v1": ManiSkillTask(_ARM, "tee"),
    "StackCube-v1": ManiSkillTask(_ARM, "cubeA"),
    "PegInsertionSide-v1": ManiSkillTask(_ARM, "peg"),
    # The joints are the whole state of these two: they have no `proprio`.
    "MS-CartpoleBalance-v1": ManiSkillTask((), None),
    "MS-CartpoleSwingUp-v1": ManiSkillTask((), None),
}
"""By name. No task needs a download.

ManiSkill's own state holds more than a robot can feel: in PullCube its `goal_pos` is the cube's position plus
a constant, and with that the task is solved blind. So `proprio` lists what is allowed, and what a later ManiSkill
adds stays out until somebody has looked at it.
"""


def task_specification(task: str) -> Any:
    """ManiSkill's entry for a task. `gym.make` is avoided: it offers to download what is missing.

    Args:
        task: one of `TASKS`.

    Returns:
        ManiSkill's ``EnvSpec``.

    Raises:
        ModuleNotFoundError: if ManiSkill is not installed.
        ValueError: if the task is none of `TASKS`; the message says why and lists them.
    """
    if importlib.util.find_spec("mani_skill") is None:
        raise ModuleNotFoundError('ManiSkill is not installed: pip install "gaze_torchrl[maniskill]"')
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.registration import REGISTERED_ENVS

    if task in TASKS:
        return REGISTERED_ENVS[task]
    if task in REGISTERED_ENVS and REGISTERED_ENVS[task].asset_download_ids:
        problem = f"env.task={task!r} needs assets that ManiSkill would download, which is not supported"
    elif task in REGISTERED_ENVS:
        problem = f"env.task={task!r} is not supported"
    else:
        problem = f"env.task={task!r} is no ManiSkill task"
    raise ValueError(f"{problem}; choose one of {', '.join(TASKS)}")
