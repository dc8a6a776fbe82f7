"""The class of a ManiSkill scene: a task with some cameras, simplified meshes, distractors or another look."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

from gaze_torchrl.envs.lowpoly import LowPolyVisuals
from gaze_torchrl.envs.maniskill_clutter import with_distractors
from gaze_torchrl.envs.maniskill_shift import LOOKS, SHIFTS, parse_shift, with_shift
from gaze_torchrl.envs.wrapping import ShiftDoesNotApply

__all__ = ["SceneOptions", "scene_class"]


@dataclass(frozen=True)
class SceneOptions:
    """What a scene is made from: the arguments of `ManiSkillEnv` that do not concern the batch."""

    task: str
    image_size: int
    control_mode: str
    reward_mode: str
    frame_skip: int
    terminate_on_success: bool
    proprio: tuple[str, ...]
    privileged: bool
    low_poly: bool
    cameras: tuple[str, ...]
    depth: float | None
    distractors: int
    distractor_kind: Literal["visual", "colliding"]
    distractor_colors: Literal["any", "task"]
    shift: str | None


def scene_class(task_class: type, options: SceneOptions) -> type:
    """The class of a scene.

    Args:
        task_class: ManiSkill's class of the task.
        options: what the scene is made from; a shift of distractors goes before ``distractors`` and its kin.

    Returns:
        A subclass, the same for the same arguments. With distractors it takes ``first_scene``. While its attribute
        ``unseen`` is true, it draws no pictures.

    Raises:
        ValueError: if an argument is out of its range, or the task has no room for distractors.
        ShiftDoesNotApply: if it has none for those of a shift.
    """
    kind, strength = parse_shift(options.shift) if options.shift else ("", 0)
    clutter: dict[str, Any] = {
        "count": options.distractors,
        "kind": options.distractor_kind,
        "colors": options.distractor_colors,
    }
    if kind in ("distractors", "distractor_kind"):
        try:
            task_class = with_distractors(task_class, **SHIFTS[kind][strength - 1])
        except ValueError as error:
            raise ShiftDoesNotApply(f"env.shift={options.shift} adds distractors: {error}") from error
    elif clutter["count"]:
        task_class = with_distractors(task_class, **clutter)
    if kind in LOOKS:
        task_class = with_shift(task_class, kind, strength)
    return _with_cameras(task_class, options.cameras, options.low_poly)


@functools.cache
def _with_cameras(task_class: type, cameras: tuple[str, ...], low_poly: bool) -> type:
    """The task with some of its cameras: another, on the wrist say, would be drawn at every step for nothing."""

    class Scene(*((LowPolyVisuals,) if low_poly else ()), task_class):  # type: ignore[misc]
        _sensors: dict[str, Any]
        unseen = False

        def _setup_sensors(self, options: dict) -> None:
            super()._setup_sensors(options)
            if strangers := [name for name in cameras if name not in self._sensors]:
                raise ValueError(f"env.cameras must be some of {sorted(self._sensors)}, got {strangers}")
            self._sensors = self.scene.sensors = {name: self._sensors[name] for name in cameras}

        def _get_obs_sensor_data(self, *args: Any, **kwargs: Any) -> dict:
            return {} if self.unseen else super()._get_obs_sensor_data(*args, **kwargs)

    return Scene
