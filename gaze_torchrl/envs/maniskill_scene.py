"""One ManiSkill scene: the task's class with one camera, simplified meshes, distractors or another look."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from gaze_torchrl.envs.lowpoly import LowPolyVisuals
from gaze_torchrl.envs.maniskill_clutter import with_distractors
from gaze_torchrl.envs.maniskill_shift import SHIFTS, parse_shift, with_shift

__all__ = ["keep_renderer", "scene_class", "truth"]


def scene_class(
    task_class: type,
    camera: str,
    low_poly: bool,
    distractors: int,
    distractor_kind: Any,
    distractor_colors: Any,
    shift: str | None,
) -> type:
    """The class of a scene.

    Args:
        task_class: ManiSkill's class of the task.
        camera: the one that is kept; its object is the scene's ``camera``.
        low_poly: whether meshes are simplified.
        distractors, distractor_kind, distractor_colors: as for `ManiSkillEnv`; a shift of distractors goes before them.
        shift: a shift of the suite, or None.

    Returns:
        A subclass, the same for the same arguments. With distractors it takes ``first_scene``.

    Raises:
        ValueError: if an argument is out of its range, or the task has no room for distractors.
    """
    kind, strength = parse_shift(shift) if shift else ("", 0)
    clutter = {"count": distractors, "kind": distractor_kind, "colors": distractor_colors}
    if kind in ("distractors", "distractor_kind"):
        clutter, kind = SHIFTS[kind][strength - 1], ""
    if clutter["count"]:
        task_class = with_distractors(task_class, **clutter)
    if kind:
        task_class = with_shift(task_class, kind, strength)
    return _with_camera(task_class, camera, low_poly)


@functools.cache
def _with_camera(task_class: type, camera: str, low_poly: bool) -> type:
    """The task with one camera: another, on the wrist say, would be drawn at every step for nothing."""

    class Scene(*((LowPolyVisuals,) if low_poly else ()), task_class):  # type: ignore[misc]
        _sensors: dict[str, Any]

        def _setup_sensors(self, options: dict) -> None:
            super()._setup_sensors(options)
            if camera not in self._sensors:
                raise ValueError(f"env.camera must be one of {sorted(self._sensors)}, got {camera!r}")
            self.camera = self._sensors[camera]
            self._sensors = self.scene.sensors = {camera: self.camera}

    return Scene


@functools.cache
def keep_renderer() -> Any:
    """SAPIEN drops its renderer with the last scene, and setting it up again takes ten seconds on a CPU."""
    import sapien.render

    return sapien.render.RenderSystem(sapien.Device("cpu"))


def truth(target: Any, segmentation: Tensor, camera: Any) -> dict[str, Tensor]:
    """Where an object is in the picture.

    Args:
        target: ManiSkill's actor.
        segmentation: number of the thing that each pixel shows, [H, W], integer.
        camera: ManiSkill's camera.

    Returns:
        ``mask`` [H, W] bool, its visible pixels, and ``center`` [2] float32, its origin as the camera projects it: x
        and y, [-1, 1] from edge to edge.
    """
    view = camera.get_params()
    place = view["extrinsic_cv"][0, :, :3] @ target.pose.p[0] + view["extrinsic_cv"][0, :, 3]
    across, down, depth = view["intrinsic_cv"][0] @ place
    height, width = segmentation.shape
    center = torch.stack([2 * across / (depth * width) - 1, 2 * down / (depth * height) - 1])
    return {"mask": segmentation == target.per_scene_id[0], "center": center.float()}
