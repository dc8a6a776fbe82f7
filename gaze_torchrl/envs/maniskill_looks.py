"""What a distractor looks like: unlike the task's objects, or so like them that colour alone tells nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Look", "add_shape", "half_size", "like", "unlike"]

SHAPES = ("box", "sphere", "cylinder")
HALF_SIZE = (0.0125, 0.025)  # metres: about the cubes' 0.02, and at least a pixel wide in 64
# In RGB, where black and white are 1.7 apart. Closer colours may be the same one under another light.
COLOR_DISTANCE, COLOR_TRIES = 0.35, 100
WOOD = 600.0  # kg/m^3


@dataclass(frozen=True)
class Look:
    """A shape of some size and colour.

    Args:
        shape: one of `SHAPES`; a cylinder stands upright.
        half_size: along x, y and z, [3], metres.
        material: SAPIEN's.
    """

    shape: str
    half_size: np.ndarray
    material: Any

    @property
    def radius(self) -> float:
        """Of the circle on the table that holds it whichever way it is turned."""
        return float(np.hypot(*self.half_size[:2])) if self.shape == "box" else float(self.half_size[0])


def half_size(shape: Any) -> np.ndarray:
    """Of a box, a sphere or a cylinder, whose axis is x for SAPIEN, [3]."""
    if hasattr(shape, "half_size"):
        return shape.half_size
    return np.array([getattr(shape, "half_length", shape.radius), shape.radius, shape.radius])


def unlike(taken: np.ndarray, rng: np.random.Generator) -> Look:
    """Any shape, of a colour away from those that are taken [c, 3]."""
    from sapien.render import RenderMaterial

    shape = SHAPES[rng.integers(len(SHAPES))]
    width, depth, height = rng.uniform(*HALF_SIZE, 3)
    size = {"box": (width, depth, height), "sphere": (width,) * 3, "cylinder": (width, width, height)}[shape]
    colors = rng.uniform(size=(COLOR_TRIES, 3))
    distance = np.linalg.norm(colors[:, None] - taken, axis=-1).min(-1)
    color = colors[np.minimum(distance, COLOR_DISTANCE).argmax()]  # the first that is far, or else the furthest
    return Look(shape, np.array(size), RenderMaterial(base_color=[*color, 1]))


def like(original: Any, rng: np.random.Generator) -> Look:
    """The colour and about the size of a shape, but a ball or a bar: a twin could not be told apart at all."""
    size = min(half_size(original)) * rng.uniform(0.9, 1.1)
    if hasattr(original, "half_size") and rng.random() < 0.5:
        return Look("sphere", np.full(3, size), original.material)
    stretch = rng.uniform(1.3, 1.6)
    return Look("box", size * np.array([stretch, 1 / stretch, 1]), original.material)


def add_shape(builder: Any, look: Look, collision: bool) -> None:
    """Give an actor's builder the look, and the same shape of wood to collide with."""
    from sapien import Pose

    radius, _, half_length = look.half_size
    size: dict[str, Any] = {
        "box": {"half_size": look.half_size},
        "sphere": {"radius": radius},
        # SAPIEN's cylinders lie along x: turned to the vertical.
        "cylinder": {"radius": radius, "half_length": half_length, "pose": Pose(q=[0.5**0.5, 0, 0.5**0.5, 0])},
    }[look.shape]
    getattr(builder, f"add_{look.shape}_visual")(material=look.material, **size)
    if collision:
        getattr(builder, f"add_{look.shape}_collision")(density=WOOD, **size)
