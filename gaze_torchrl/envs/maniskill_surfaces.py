"""The surfaces of a ManiSkill scene that no task is about, and what they can be painted with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from gaze_torchrl.envs.wrapping import ShiftDoesNotApply

__all__ = ["GAMMA", "SCENERY", "Surface", "backdrop", "object_colors", "pattern", "surfaces", "unlike"]

SCENERY = {"table-workspace": 3, "ground": 6, "wall": 4}
"""Actors that no task is about, and how often a pattern repeats on one tile of their texture: 0.6 m of table, 4 m of
ground, 40 m of the wall behind the cart-pole."""
GAMMA = 2.2
"""Base colours are linear, textures and pictures sRGB; the exponent is that of SAPIEN's shaders."""
TEXTURE_SIZE = 256
# The ground's edges are 50 m away, and cameras see as far as 100 m, which holds the corners of this box.
BACKDROP_HALF_SIZE = 51.0
# Distance in RGB, of at most 1.7, within which a surface could hide an object, and how often to try for more.
COLOR_DISTANCE, TRIES = 0.35, 100


@dataclass(frozen=True)
class Surface:
    """A surface that can be painted over.

    Args:
        material: SAPIEN's.
        albedo: its stock texture, or one pixel, sRGB from 0 to 1, [h, w, 3].
        periods: how often a pattern repeats on one tile.
    """

    material: Any
    albedo: np.ndarray
    periods: int

    def paint(self, albedo: np.ndarray) -> None:
        """Give it another texture.

        Args:
            albedo: sRGB, [h, w, 3]; what is outside of 0 to 1 is cut.
        """
        from sapien.render import RenderTexture2D

        pixels = np.full((*albedo.shape[:2], 4), 255, np.uint8)
        pixels[..., :3] = 255 * albedo.clip(0, 1) + 0.5
        levels = pixels.shape[0].bit_length()
        # A new one: other scenes share the stock texture, and writing into one does not reach its smaller copies.
        texture = RenderTexture2D(pixels, "R8G8B8A8Unorm", mipmap_levels=levels, srgb=True)
        self.material.set_base_color_texture(texture)


def surfaces(env: Any) -> list[Surface]:
    """Table, ground and wall. SAPIEN makes a scene's materials its own, which textures are not.

    Args:
        env: a shifted task of one scene.

    Raises:
        ShiftDoesNotApply: If it has none of them.
    """
    actors = [(env.scene.actors[name], periods) for name, periods in SCENERY.items() if name in env.scene.actors]
    if not actors:
        raise ShiftDoesNotApply(
            f"env.shift={env.shift[0]} changes {list(SCENERY)}, this scene has {list(env.scene.actors)}"
        )
    return [
        Surface(material, _albedo(material), periods)
        for actor, periods in actors
        for material in _materials(actor._objs[0])
    ]


def backdrop(env: Any) -> Any:
    """Close the scene off by a box seen from inside, black like nothing at all, and return its material.

    Args:
        env: a task of one scene.
    """
    from sapien import Entity
    from sapien.render import RenderBodyComponent, RenderMaterial, RenderShapeBox, RenderShapeTriangleMesh

    material = RenderMaterial(base_color=[0, 0, 0, 1], roughness=0)  # mirrors nothing, or it would show a sheen
    box = RenderShapeBox([1, 1, 1], material)
    vertices, inwards = BACKDROP_HALF_SIZE * box.vertices, box.triangles[:, ::-1]
    inside = RenderShapeTriangleMesh(vertices, inwards, -box.vertex_normal, box.vertex_uv, material)
    entity = Entity()
    entity.add_component(RenderBodyComponent().attach(inside))
    env.scene.sub_scenes[0].add_entity(entity)
    return material


def object_colors(env: Any) -> np.ndarray:
    """Base colours of all that is not scenery, robots included, sRGB, [c, 3].

    Args:
        env: a task of one scene.
    """
    scenery = [env.scene.actors[name]._objs[0] for name in SCENERY if name in env.scene.actors]
    bodies = env.scene.sub_scenes[0].render_system.render_bodies
    materials = [material for body in bodies if body.entity not in scenery for material in _materials(body.entity)]
    return np.array([material.base_color[:3] for material in materials]) ** (1 / GAMMA)


def unlike(taken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A colour that is far from those that are taken, or else the furthest, sRGB, [3].

    Args:
        taken: sRGB from 0 to 1, [c, 3].
        rng: drawn from.
    """
    colors = rng.uniform(size=(TRIES, 3))
    distance = np.linalg.norm(colors[:, None] - taken, axis=-1).min(-1)
    return colors[np.minimum(distance, COLOR_DISTANCE).argmax()]


def pattern(periods: int, rng: np.random.Generator) -> np.ndarray:
    """Noise, stripes or checks that repeat without a seam, from -1 to 1, [TEXTURE_SIZE, TEXTURE_SIZE].

    Args:
        periods: about how many there are, at least 1.
        rng: drawn from.
    """
    grid = np.linspace(0, 2j * np.pi, TEXTURE_SIZE, endpoint=False)

    def wave(angle: float, frequency: float) -> np.ndarray:
        down, across = np.rint(frequency * np.array([np.cos(angle), np.sin(angle)]))
        return np.outer(np.exp(down * grid + 2j * np.pi * rng.uniform()), np.exp(across * grid)).real

    kind, angle = rng.integers(3), rng.uniform(0, np.pi)
    if kind == 0:
        noise = np.sum([wave(rng.uniform(0, np.pi), periods * rng.uniform(0.5, 3)) for _ in range(12)], axis=0)
        return (noise / noise.std()).clip(-1, 1)
    frequency = periods * rng.uniform(0.7, 1.4)
    stripes = np.sign(wave(angle, frequency))
    return stripes if kind == 1 else stripes * np.sign(wave(angle + np.pi / 2, frequency))


def _materials(entity: Any) -> list[Any]:
    from sapien.render import RenderBodyComponent

    body = entity.find_component_by_type(RenderBodyComponent)
    return [part.material for shape in body.render_shapes for part in shape.parts]


def _albedo(material: Any) -> np.ndarray:
    if material.base_color_texture is None:
        return np.reshape(material.base_color[:3], (1, 1, 3)) ** (1 / GAMMA)
    pixels = torch.from_numpy(material.base_color_texture.download()[..., :3]).permute(2, 0, 1).float()
    return adaptive_avg_pool2d(pixels / 255, TEXTURE_SIZE).permute(1, 2, 0).numpy()
