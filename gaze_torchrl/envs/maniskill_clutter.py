"""Clutter for ManiSkill's table-top tasks: distractors that leave the task's own random draws alone.

Visual distractors change the pictures and nothing else: for the same seed and actions every pose and reward is
the same, bit by bit, with and without them. Colliding ones can be hit, and be in the way.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from gaze_torchrl.envs.maniskill_looks import Look, add_shape, half_size, like, unlike

__all__ = ["CLUTTERED", "Distractors", "register_clutter", "with_distractors"]

Kind = Literal["visual", "colliding"]
Colors = Literal["any", "task"]
Region = tuple[float, float, float, float]

CLUTTERED: dict[str, Region] = {
    "PushCube-v1": (-0.2, 0.2, -0.3, 0.3),
    "PullCube-v1": (-0.25, 0.2, -0.3, 0.3),
    "PickCube-v1": (-0.2, 0.2, -0.3, 0.3),
    "PokeCube-v1": (-0.2, 0.3, -0.3, 0.3),
    "LiftPegUpright-v1": (-0.2, 0.2, -0.3, 0.3),
    "RollBall-v1": (-0.4, 0.2, -0.1, 0.6),
    "PullCubeTool-v1": (-0.25, 0.25, -0.35, 0.3),
    "PlaceSphere-v1": (-0.25, 0.12, -0.25, 0.25),
    "PushT-v1": (-0.35, 0.2, -0.35, 0.35),
    "StackCube-v1": (-0.2, 0.2, -0.3, 0.3),
    "PegInsertionSide-v1": (-0.3, 0.3, -0.15, 0.35),
}
"""The tasks that have a clutter variant, and where on the table: x from, x to, y from, y to, in metres.

There the base camera looks and, mostly, the robot reaches. The cart-poles have no variant: they have no table.
"""

SCENERY = ("ground", "table-workspace")
# Metres from rim to rim: room for the fingers around an object, and what keeps distractors from touching.
OBJECT_GAP, DISTRACTOR_GAP = 0.05, 0.02
SPACING = 0.03  # metres between the points that stand for the objects and for the lines between them
TRIES = 100
# A distractor without a free place lies on the floor behind the robot, where no base camera looks. It cannot hide
# in the table: that is solid, and would throw out what collides.
HIDDEN = (-2.0, 1.0, -0.9196429)


@dataclass(frozen=True)
class _TaskObject:
    """One of the task's own actors, in one scene."""

    name: str
    row: int  # of the scene in the actor's poses
    shapes: list[Any]
    points: np.ndarray  # [p, 3] in its own frame, a lattice that fills it


class Distractors:
    """Mix-in that puts distractors on a ManiSkill task's table; `with_distractors` makes the classes.

    Places follow from the episode, its seed and where the task put its objects, so they change with every reset,
    seeded or not. They keep clear of the task's objects and of the straight lines between these; the robot needs
    no room, for it starts above them. Shapes, sizes and colours follow from the scene's number.

    Args:
        first_scene: Number of the first scene. Environments of one scene each, stepped side by side, have
            distractors of different looks if they differ in it.
    """

    count: int
    kind: Kind
    colors: Colors
    region: Region
    scene: Any
    num_envs: int
    device: Any
    _episode_seed: np.ndarray

    def __init__(self, *args: Any, first_scene: int = 0, **kwargs: Any) -> None:
        self._first_scene = first_scene
        super().__init__(*args, **kwargs)

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)  # type: ignore[misc]
        self._task_objects = _task_objects(self.scene.actors, self.num_envs)
        self._looks = [self._draw_looks(i) for i in range(self.num_envs)]
        self._distractors = [self._build(k) for k in range(self.count)]

    def _draw_looks(self, scene: int) -> list[Look]:
        rng, objects = np.random.default_rng(self._first_scene + scene), self._task_objects[scene]
        if self.colors == "task":
            movable = [one for one in objects if self.scene.actors[one.name].px_body_type == "dynamic"]
            originals = [shape for one in movable for shape in one.shapes]
            return [like(originals[k % len(originals)], rng) for k in range(self.count)]
        taken = np.array([shape.material.base_color[:3] for one in objects for shape in one.shapes])
        return [unlike(taken, rng) for _ in range(self.count)]

    def _build(self, k: int) -> Any:
        """Distractor k of every scene, as one actor."""
        from mani_skill.utils.structs import Actor
        from sapien import Pose

        actors = []
        for i, looks in enumerate(self._looks):
            builder = self.scene.create_actor_builder().set_scene_idxs([i])
            add_shape(builder, looks[k], collision=self.kind == "colliding")
            builder.initial_pose = Pose(_hidden(k, looks[k]))
            build = builder.build_dynamic if self.kind == "colliding" else builder.build_kinematic
            actors.append(build(f"distractor_{k}_{i}"))
            self.scene.remove_from_state_dict_registry(actors[-1])
        merged = Actor.merge(actors, f"distractor_{k}")
        self.scene.add_to_state_dict_registry(merged)
        return merged

    def _initialize_episode(self, env_idx: Any, options: dict) -> None:
        import torch
        from mani_skill.utils.structs import Pose

        super()._initialize_episode(env_idx, options)  # type: ignore[misc]
        names = {one.name for objects in self._task_objects for one in objects}
        states = {name: self.scene.actors[name].pose.raw_pose.cpu().numpy() for name in names}
        # Sorted: in a partial reset `set_pose` takes the rows in the order of the scenes.
        poses = np.stack([self._place(i, states) for i in sorted(env_idx.tolist())])
        for k, distractor in enumerate(self._distractors):
            distractor.set_pose(Pose.create(torch.as_tensor(poses[:, k], dtype=torch.float32, device=self.device)))

    def _place(self, scene: int, states: dict[str, np.ndarray]) -> np.ndarray:
        """Poses of a scene's distractors, given those of the task's actors: position and quaternion, [count, 7]."""
        from sapien import Pose

        objects, looks = self._task_objects[scene], self._looks[scene]
        own = np.stack([states[one.name][one.row] for one in objects])
        occupied = [_transform(Pose(s[:3], s[3:]), one.points)[:, :2] for s, one in zip(own, objects, strict=True)]
        for start, end in itertools.combinations(own[:, :2], 2):
            occupied.append(np.linspace(start, end, 2 + int(np.linalg.norm(end - start) / SPACING)))
        points = np.concatenate(occupied)
        # A reset without a seed keeps the last seed and goes on with the random numbers: the places of the objects
        # tell such episodes apart.
        rng = np.random.default_rng([int(self._episode_seed[scene]), *own.astype(np.float32).view(np.uint32).flat])
        candidates = rng.uniform(self.region[::2], self.region[1::2], (self.count, TRIES, 2))
        square = (candidates**2).sum(-1)[..., None] + (points**2).sum(-1) - 2 * candidates @ points.T
        room = square.min(-1)  # squared distance of a candidate to what is nearest
        angle = rng.uniform(0, np.pi, self.count)
        poses = np.zeros((self.count, 7))
        poses[:, 3], poses[:, 6] = np.cos(angle), np.sin(angle)
        for k, look in enumerate(looks):
            free = room[k] > (look.radius + OBJECT_GAP) ** 2
            for other in range(k):
                reach = look.radius + looks[other].radius + DISTRACTOR_GAP
                free &= np.linalg.norm(candidates[k] - poses[other, :2], axis=-1) > reach
            on_table = (*candidates[k, free.argmax()], look.half_size[2])
            poses[k, :3] = on_table if free.any() else _hidden(k, look)
        return poses


def with_distractors(task_class: type, count: int, kind: Kind = "visual", colors: Colors = "any") -> type:
    """Return a ManiSkill task with distractors on its table.

    Args:
        task_class: Class of a task in `CLUTTERED`.
        count: Number of distractors, at least 1.
        kind: `"visual"`, which leaves dynamics and rewards as they are, or `"colliding"`, bodies of wood.
        colors: `"any"`, away from those of the task's objects; or `"task"`, those of its movable objects and
            about their size, but of other proportions: colour alone does not find the target.

    Returns:
        Subclass of `Distractors` and the task, the same one for the same arguments.

    Raises:
        ValueError: If an argument is out of its range, or the task has no clutter variant.
    """
    from mani_skill.utils.registration import REGISTERED_ENVS

    if count < 1:
        raise ValueError(f"env.distractors must be at least 1 here, got {count}: without any, take the task itself")
    for key, value, choices in (("kind", kind, get_args(Kind)), ("colors", colors, get_args(Colors))):
        if value not in choices:
            raise ValueError(f"env.distractor_{key} must be one of {choices}, got {value!r}")
    for task, region in CLUTTERED.items():
        if REGISTERED_ENVS[task].cls is task_class:
            return _cluttered_class(task_class, count, kind, colors, region)
    raise ValueError(
        f"env.distractors must be 0 for {task_class.__name__}: there is clutter for {', '.join(CLUTTERED)}"
    )


@functools.cache
def _cluttered_class(task_class: type, count: int, kind: Kind, colors: Colors, region: Region) -> type:
    attributes = {"count": count, "kind": kind, "colors": colors, "region": region}
    return type(f"Cluttered{task_class.__name__}", (Distractors, task_class), attributes)


def register_clutter(count: int = 8, kind: Kind = "visual") -> None:
    """Register `PushCubeClutter-v1`, `PushCubeClutterHard-v1` and so on with ManiSkill and Gymnasium, once.

    The first has distractors of any colour, the second of the colours of the task's movable objects. Names tell others
    than 8 visual ones apart: `PushCubeClutterColliding-v1`, `PushCubeClutterHard16-v1`.

    Args:
        count: Number of distractors, at least 1.
        kind: `"visual"` or `"colliding"`, as of `with_distractors`.

    Raises:
        ModuleNotFoundError: If ManiSkill is not installed.
        ValueError: If an argument is out of its range.

    Examples:
        >>> import gymnasium
        >>> register_clutter()  # doctest: +SKIP
        >>> env = gymnasium.make("PushCubeClutter-v1", obs_mode="rgb")  # doctest: +SKIP
    """
    if importlib.util.find_spec("mani_skill") is None:
        raise ModuleNotFoundError('ManiSkill is not installed: pip install "gaze_torchrl[maniskill]"')
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.registration import REGISTERED_ENVS, register_env

    levels: dict[str, Colors] = {"Clutter": "any", "ClutterHard": "task"}
    other = ("" if kind == "visual" else kind.capitalize()) + ("" if count == 8 else str(count))
    for task, (level, colors) in itertools.product(CLUTTERED, levels.items()):
        name, specification = task.replace("-", f"{level}{other}-"), REGISTERED_ENVS[task]
        cluttered = with_distractors(specification.cls, count, kind, colors)
        if name not in REGISTERED_ENVS:
            register_env(name, max_episode_steps=specification.max_episode_steps)(cluttered)


def _task_objects(actors: dict[str, Any], num_scenes: int) -> list[list[_TaskObject]]:
    """For each scene, the actors that the task brought along."""
    from sapien.render import RenderBodyComponent

    scenes: list[list[_TaskObject]] = [[] for _ in range(num_scenes)]
    for name, actor in actors.items():
        if name not in SCENERY:
            for row, (scene, entity) in enumerate(zip(actor._scene_idxs.tolist(), actor._objs, strict=True)):
                shapes = entity.find_component_by_type(RenderBodyComponent).render_shapes
                points = np.concatenate([_transform(shape.local_pose, _lattice(shape)) for shape in shapes])
                scenes[scene].append(_TaskObject(name, row, shapes, points))
    return scenes


def _lattice(shape: Any) -> np.ndarray:
    axes = [np.linspace(-half, half, 2 + int(2 * half / SPACING)) for half in half_size(shape)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 3)


def _transform(pose: Any, points: np.ndarray) -> np.ndarray:
    matrix = pose.to_transformation_matrix()
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _hidden(k: int, look: Look) -> tuple[float, float, float]:
    x, y, floor = HIDDEN
    return x, y + 0.1 * k, floor + float(look.half_size[2])
