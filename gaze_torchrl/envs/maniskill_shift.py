"""Distribution shifts for ManiSkill tasks: one factor of the picture at a time, in three strengths.

Poses, rewards and success are equal bit by bit with and without a shift of color, texture, lighting or camera.
Each episode draws its look from a generator of its own, made from the episode's seed: the same seed gives the same
look, and strength says how far the same draw is carried from the stock look. All of it is done at a reset, on the
materials, lights and cameras of one scene; nothing is built anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gaze_torchrl.envs.maniskill_surfaces import GAMMA, backdrop, object_colors, pattern, surfaces, unlike
from gaze_torchrl.envs.wrapping import ShiftDoesNotApply

__all__ = ["LOOKS", "SHIFTS", "Shifted", "parse_shift", "with_shift"]

SHIFTS: dict[str, tuple[dict[str, Any], ...]] = {
    # Share of another colour in the base colours of table, ground and background.
    "color": ({"blend": 0.25}, {"blend": 0.5}, {"blend": 0.8}),
    # Amplitude of noise, stripes or checks on table and ground, of 1 from black to white.
    "texture": ({"amplitude": 0.1}, {"amplitude": 0.2}, {"amplitude": 0.4}),
    # Every light: brightness in powers of two, the same for each colour channel, direction in degrees.
    "lighting": (
        {"brightness": 0.4, "tint": 0.25, "tilt": 15.0},
        {"brightness": 0.7, "tint": 0.5, "tilt": 30.0},
        {"brightness": 1.0, "tint": 0.8, "tilt": 45.0},
    ),
    # Around the point looked at and about the line of sight in degrees; share of elevation and of distance.
    "camera": (
        {"turn": 6.0, "roll": 2.0, "elevation": 0.1, "distance": 0.05},
        {"turn": 12.0, "roll": 4.0, "elevation": 0.2, "distance": 0.1},
        {"turn": 20.0, "roll": 8.0, "elevation": 0.3, "distance": 0.15},
    ),
    # Arguments of `with_distractors`.
    "distractors": tuple({"count": count, "kind": "visual", "colors": "any"} for count in (4, 8, 16)),
    "distractor_kind": (
        {"count": 8, "kind": "visual", "colors": "any"},
        {"count": 8, "kind": "visual", "colors": "task"},
        {"count": 8, "kind": "colliding", "colors": "task"},
    ),
}
"""The suite: for each kind of shift what strength 1 (weak), 2 (medium) and 3 (strong) mean."""

Draw = Callable[[np.random.Generator], None]


def parse_shift(name: str) -> tuple[str, int]:
    """Split the name of a shift.

    Args:
        name: Kind and strength, such as `"lighting-2"`.

    Returns:
        Kind, a key of `SHIFTS`, and strength, 1 to 3.

    Raises:
        ValueError: If there is no such shift.

    Examples:
        >>> parse_shift("lighting-2")
        ('lighting', 2)
    """
    shifts = {f"{kind}-{i}": (kind, i) for kind, strengths in SHIFTS.items() for i in range(1, len(strengths) + 1)}
    if name not in shifts:
        raise ValueError(f"env.shift must be one of {', '.join(shifts)}, got {name!r}")
    return shifts[name]


@functools.cache
def with_shift(task_class: type, kind: str, strength: int) -> type:
    """Return a ManiSkill task that looks different in every episode, and is the same otherwise.

    Args:
        task_class: Class of a task, which may have distractors already.
        kind: `"color"`, `"texture"`, `"lighting"` or `"camera"`.
        strength: 1 to 3.

    Returns:
        Subclass of `Shifted` and the task, the same one for the same arguments.

    Raises:
        ValueError: If there is no such shift, or it is one of distractors.
    """
    parse_shift(f"{kind}-{strength}")
    if kind not in LOOKS:
        raise ValueError(f"env.shift={kind}-{strength} is made with with_distractors; with_shift knows {list(LOOKS)}")
    return type(f"Shifted{task_class.__name__}", (Shifted, task_class), {"shift": (kind, strength)})


class Shifted:
    """Mix-in that gives a ManiSkill task another look; `with_shift` puts it before the task's class.

    For one scene on the CPU. A reset without a seed keeps the look, as ManiSkill keeps the episode's seed.

    Raises:
        ShiftDoesNotApply: If a scene without table, ground or wall shall change their looks, or one whose cameras are
            all on the robot shall move them.
    """

    shift: tuple[str, int]
    _episode_seed: Any

    def _after_reconfigure(self, options: dict) -> None:
        super()._after_reconfigure(options)  # type: ignore[misc]
        # Not in `_load_scene`: by now all classes have loaded their actors, and lights and cameras are there.
        kind, strength = self.shift
        self._draw_look = LOOKS[kind](self, **SHIFTS[kind][strength - 1])

    def _initialize_episode(self, env_idx: Any, options: dict) -> None:
        super()._initialize_episode(env_idx, options)  # type: ignore[misc]
        self._draw_look(np.random.default_rng(int(self._episode_seed[0])))


# Each of these takes note of the stock look of a new scene, and returns the function that draws another.


def _color(env: Any, blend: float) -> Draw:
    scenery, taken, behind = surfaces(env), object_colors(env), backdrop(env)

    def draw(rng: np.random.Generator) -> None:
        for surface in scenery:
            own = surface.albedo.mean((0, 1))
            surface.paint((1 - blend) * surface.albedo + blend * unlike(np.vstack([taken, own]), rng))
        # Its own colour is black. Emission is linear.
        behind.set_emission([*(blend * unlike(taken, rng)) ** GAMMA, 1.0])

    return draw


def _texture(env: Any, amplitude: float) -> Draw:
    scenery = surfaces(env)

    def draw(rng: np.random.Generator) -> None:
        for surface in scenery:
            color = rng.uniform(-1, 1, 3)
            relief = pattern(surface.periods, rng)[..., None] * color / np.abs(color).max()
            surface.paint(surface.albedo + amplitude * relief)

    return draw


def _lighting(env: Any, brightness: float, tint: float, tilt: float) -> Draw:
    from sapien import Pose
    from transforms3d.quaternions import axangle2quat

    system = env.scene.sub_scenes[0].render_system
    ambient = system.ambient_light
    lights = [(light, light.color, light.entity_pose) for light in system.lights]

    def draw(rng: np.random.Generator) -> None:
        # All lights darker or all brighter, or they would cancel out; not as far up, where white saturates.
        side = rng.choice([-1, 0.6])

        def filtered(color: np.ndarray) -> np.ndarray:
            return color * 2 ** (brightness * side * rng.uniform(0.5, 1) + tint * rng.uniform(-1, 1, 3))

        system.ambient_light = filtered(ambient)
        for light, color, pose in lights:
            light.color = filtered(color)
            turn = axangle2quat(rng.normal(size=3), np.deg2rad(tilt) * _offset(rng))
            light.entity_pose = Pose(q=turn) * pose

    return draw


def _camera(env: Any, turn: float, roll: float, elevation: float, distance: float) -> Draw:
    from sapien import Pose
    from transforms3d.euler import euler2quat

    cameras = [sensor.camera for sensor in env._sensors.values() if sensor.camera.mount is None]
    if not cameras:
        raise ShiftDoesNotApply(
            f"env.shift={env.shift[0]} needs a camera that stands still, got {', '.join(env._sensors)}"
        )
    poses = [camera.local_pose for camera in cameras]

    def draw(rng: np.random.Generator) -> None:
        for camera, stock in zip(cameras, poses, strict=True):
            forward = stock.to_transformation_matrix()[:3, 0]
            # What it looks at is where its line of sight passes the origin, the middle of every task.
            reach = -stock.p @ forward
            pivot = Pose(stock.p + reach * forward)
            around = pivot * Pose(q=euler2quat(0, 0, np.deg2rad(turn) * _offset(rng))) * pivot.inv()
            tilt, bank = -elevation * np.arcsin(forward[2]) * _offset(rng), np.deg2rad(roll) * _offset(rng)
            approach = Pose([-reach * (1 + distance * _offset(rng)), 0, 0])
            camera.set_local_pose(around * stock * Pose([reach, 0, 0], euler2quat(bank, tilt, 0)) * approach)

    return draw


LOOKS: dict[str, Callable[..., Draw]] = dict(color=_color, texture=_texture, lighting=_lighting, camera=_camera)
"""The kinds of shift that change a scene's looks, and nothing that is in it."""


def _offset(rng: np.random.Generator) -> float:
    """To either side and never near 0, so that every episode is shifted: from -1 to -1/2 or from 1/2 to 1."""
    return float(rng.choice([-1, 1]) * rng.uniform(0.5, 1))
