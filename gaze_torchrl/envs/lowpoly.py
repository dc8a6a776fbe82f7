"""Low-polygon visuals for ManiSkill scenes: several times cheaper pictures on a CPU, the same physics.

On a software renderer a picture costs what its vertices cost, and nearly all of them belong to the robot: the
Panda's visual meshes hold 135 thousand triangles, of which a 64-pixel picture cannot show one in ten. Here
the visual meshes are simplified once, into a cache folder, and the 20 000 triangles of the ground become two.
Collision shapes, joints, controllers and rewards are ManiSkill's own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["LowPolyVisuals", "low_poly_urdf"]

# Share of the triangles that is kept: pictures differ by less than 1/255 in the mean and cost about a sixth.
KEPT_FRACTION = 0.05
# Fewer cost nothing and would lose the shape, more cannot be seen: the wrist camera's mesh has 425 thousand.
MIN_TRIANGLES, MAX_TRIANGLES = 50, 1000
SIMPLIFIED_FORMATS = (".glb", ".stl")
# Names the recipe; raise it when the code below changes, so that no old cache is read.
RECIPE = 1


def low_poly_urdf(urdf: str | Path) -> Path:
    """Return a copy of a robot description whose visual meshes are simplified.

    The copy lives in `$XDG_CACHE_HOME/gaze_torchrl` (`~/.cache/gaze_torchrl`, or a temporary folder if
    that cannot be written), is made on first use in about a second, and is shared by all processes. Collision
    meshes and visuals in other formats are referred to where they are.

    Args:
        urdf: Path of the `.urdf` file. The `.srdf` beside it, pairs of links that never collide, comes
            along.

    Returns:
        Path of the simplified `.urdf`.
    """
    source = Path(urdf).resolve()
    identity = f"{RECIPE} {KEPT_FRACTION} {MIN_TRIANGLES} {MAX_TRIANGLES} {version('mani_skill')} {source}"
    folder = _cache_folder() / f"{source.stem}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if not folder.exists():
        # Built beside its place and moved there as a whole: another process sees all of it or nothing.
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            _write_low_poly(source, partial, final_folder=folder)
            partial.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder / source.name


@functools.cache
def _cache_folder() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gaze_torchrl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="gaze_torchrl-"))


def _write_low_poly(urdf: Path, folder: Path, final_folder: Path) -> None:
    tree = ElementTree.parse(urdf)
    for mesh in tree.iter("mesh"):
        mesh.set("filename", str(urdf.parent / mesh.attrib["filename"]))
    for mesh in tree.iterfind(".//visual/geometry/mesh"):
        original = Path(mesh.attrib["filename"])
        if original.suffix in SIMPLIFIED_FORMATS:
            if not (folder / original.name).exists():  # both fingers share one file
                _simplify(original, folder / original.name)
            mesh.set("filename", str(final_folder / original.name))
    tree.write(folder / urdf.name)
    if (srdf := urdf.with_suffix(".srdf")).exists():
        shutil.copy(srdf, folder / srdf.name)


def _simplify(source: Path, target: Path) -> None:
    import trimesh

    scene = trimesh.load_scene(source)
    for name, mesh in scene.geometry.items():
        material = getattr(mesh.visual, "material", None)
        # The files hold loose triangles; quadric simplification needs to know which ones meet.
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        triangles = min(max(int(KEPT_FRACTION * len(mesh.faces)), MIN_TRIANGLES), MAX_TRIANGLES)
        if triangles < len(mesh.faces):
            mesh = mesh.simplify_quadric_decimation(face_count=triangles)
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.geometry[name] = mesh
    options = {"include_normals": True} if target.suffix == ".glb" else {}
    target.write_bytes(scene.export(file_type=target.suffix[1:], **options))


@functools.cache
def _low_poly_agent(agent_class: type) -> type:
    # A subclass that is never registered: environments with stock visuals do not see it. It keeps the uid,
    # because ManiSkill's scene builders choose the robot's start pose by it.
    urdf = low_poly_urdf(agent_class.urdf_path)  # type: ignore[attr-defined]
    return type(f"LowPoly{agent_class.__name__}", (agent_class,), {"urdf_path": str(urdf)})


class LowPolyVisuals:
    """Mix-in that gives a ManiSkill task low-polygon visuals; put it before the task's class.

    Robots without a `.urdf` keep their stock visuals, and so does everything else in the scene but the
    ground.
    """

    robot_uids: Any
    scene: Any

    def _load_agent(self, *args: Any, **kwargs: Any) -> None:
        from mani_skill.agents import REGISTERED_AGENTS

        uid = self.robot_uids
        agent_class = REGISTERED_AGENTS[uid].agent_cls if isinstance(uid, str) else uid
        if isinstance(agent_class, type) and getattr(agent_class, "urdf_path", None):
            self.robot_uids = _low_poly_agent(agent_class)
        try:
            super()._load_agent(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.robot_uids = uid

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)  # type: ignore[misc]
        if "ground" in self.scene.actors:
            for entity in self.scene.actors["ground"]._objs:
                _flatten_to_quad(entity)


def _flatten_to_quad(entity: Any) -> None:
    """Replace a flat grid by the two triangles that span its corners, texture coordinates included."""
    import numpy as np
    from sapien.render import RenderBodyComponent, RenderShapeTriangleMesh

    grid = entity.find_component_by_type(RenderBodyComponent)
    part = grid.render_shapes[0].parts[0]
    vertices, uvs = part.vertices, part.get_vertex_uv()
    x, y = vertices[:, 0], vertices[:, 1]
    corners = [np.argmin(x + y), np.argmax(x - y), np.argmax(x + y), np.argmin(x - y)]  # counter-clockwise
    quad = RenderBodyComponent()
    quad.attach(
        RenderShapeTriangleMesh(
            vertices=vertices[corners],
            triangles=np.array([[0, 1, 2], [0, 2, 3]]),
            normals=np.tile([0.0, 0.0, 1.0], (4, 1)),
            uvs=uvs[corners],
            material=part.material,
        )
    )
    entity.remove_component(grid)
    entity.add_component(quad)
