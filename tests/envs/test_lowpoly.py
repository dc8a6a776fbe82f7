"""Low-polygon scenes look the same, move the same, and leave stock scenes alone."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from gaze_torchrl.envs import lowpoly
from gaze_torchrl.envs.lowpoly import low_poly_urdf
from gaze_torchrl.envs.maniskill import ManiSkillEnv
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill


@pytest.fixture(scope="module")
def pair():
    """A low-polygon and a stock environment in one process, the stock one made last."""
    envs = tuple(ManiSkillEnv("PushCube-v1", num_envs=1, low_poly=low_poly) for low_poly in (True, False))
    yield envs
    for env in envs:
        env.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(lowpoly, "_cache_folder", lambda: tmp_path)
    return tmp_path


def panda_urdf():
    from mani_skill.agents.robots import Panda

    return Path(Panda.urdf_path)


def links(env):
    return env.simulation.scenes[0].agent.robot._objs[0].links


def triangles(env):
    from sapien.render import RenderBodyComponent

    return sum(
        len(part.triangles)
        for entity in env.simulation.scenes[0].scene.sub_scenes[0].entities
        for component in entity.components
        if isinstance(component, RenderBodyComponent)
        for shape in component.render_shapes
        if hasattr(shape, "parts")
        for part in shape.parts
    )


def test_same_trajectory_and_nearly_same_pictures(pair):
    generator = torch.Generator().manual_seed(0)
    tds = [(env.set_seed(3), env.reset())[1] for env in pair]
    differences = []
    for _ in range(30):
        action = 2 * torch.rand(1, 8, generator=generator) - 1
        low, stock = tds = [env.step(td.set("action", action))["next"] for env, td in zip(pair, tds, strict=True)]
        states = [env.simulation.scenes[0].get_state() for env in pair]
        assert (states[0] == states[1]).all()
        for key in ("reward", "proprio", "success"):
            assert (low[key] == stock[key]).all()
        differences.append((low["pixels"].float() - stock["pixels"].float()).abs().mean())
    assert 0 < torch.stack(differences).mean() < 2


def test_same_bodies(pair):
    for low, stock in zip(*map(links, pair), strict=True):
        assert (low.name, low.mass, low.auto_compute_mass) == (
            stock.name,
            stock.mass,
            stock.auto_compute_mass,
        )
        np.testing.assert_array_equal(low.inertia, stock.inertia)
        np.testing.assert_array_equal(low.joint.limits, stock.joint.limits)
        np.testing.assert_array_equal(low.joint.pose_in_parent.p, stock.joint.pose_in_parent.p)
        for one, other in zip(low.collision_shapes, stock.collision_shapes, strict=True):
            assert type(one) is type(other)
            # The groups hold which pairs of links never collide, read from the .srdf file.
            assert one.collision_groups == other.collision_groups
            assert one.physical_material.static_friction == other.physical_material.static_friction
            np.testing.assert_array_equal(one.local_pose.p, other.local_pose.p)
            if hasattr(one, "vertices"):
                np.testing.assert_array_equal(one.vertices, other.vertices)
                np.testing.assert_array_equal(one.triangles, other.triangles)


@pytest.mark.parametrize("task", ["PushCube-v1", "PushT-v1", "StackCube-v1"])
def test_far_fewer_triangles(task):
    low, stock = (ManiSkillEnv(task, num_envs=1, image_size=8, low_poly=low_poly) for low_poly in (True, False))
    assert triangles(low) < 0.15 * triangles(stock)
    assert low.simulation.scenes[0].robot_uids == stock.simulation.scenes[0].robot_uids
    assert low.simulation.scenes[0].agent.uid == stock.simulation.scenes[0].agent.uid
    low.close()
    stock.close()


def test_stock_environments_are_not_affected(pair):
    from mani_skill.agents import REGISTERED_AGENTS
    from mani_skill.agents.robots import Panda

    low, stock = pair
    assert REGISTERED_AGENTS["panda"].agent_cls is Panda
    assert type(stock.simulation.scenes[0].agent) is Panda
    assert type(low.simulation.scenes[0].agent) is not Panda
    assert triangles(stock) > 150_000


def test_ground_of_two_triangles_looks_the_same(pair):
    _, stock = pair
    scene = stock.simulation.scenes[0]
    grid = stock.reset()["pixels"]
    for entity in scene.scene.actors["ground"]._objs:
        lowpoly._flatten_to_quad(entity)
    quad = scene.get_obs()["sensor_data"]["base_camera"]["rgb"].permute(0, 3, 1, 2)
    difference = (grid.float() - quad.float()).abs()
    assert difference.max() <= 16
    assert difference.mean() < 0.01


def test_only_visual_meshes_are_replaced(cache):
    copy = low_poly_urdf(panda_urdf())
    assert copy.is_relative_to(cache)
    original_root, root = ElementTree.parse(panda_urdf()).getroot(), ElementTree.parse(copy).getroot()
    for original, mesh in zip(original_root.iter("mesh"), root.iter("mesh"), strict=True):
        assert Path(mesh.get("filename")).is_file()
        mesh.set("filename", original.get("filename"))
    assert ElementTree.tostring(root) == ElementTree.tostring(original_root)
    for mesh in ElementTree.parse(copy).iterfind(".//collision/geometry/mesh"):
        assert Path(mesh.get("filename")).is_relative_to(panda_urdf().parent)
    assert copy.with_suffix(".srdf").read_text() == panda_urdf().with_suffix(".srdf").read_text()


def test_cache_is_used_again(cache, monkeypatch):
    first = low_poly_urdf(panda_urdf())
    monkeypatch.setattr(lowpoly, "_write_low_poly", lambda *_, **__: pytest.fail("made twice"))
    assert low_poly_urdf(panda_urdf()) == first
    monkeypatch.setattr(lowpoly, "RECIPE", lowpoly.RECIPE + 1)
    with pytest.raises(pytest.fail.Exception, match="made twice"):
        low_poly_urdf(panda_urdf())


def test_failure_leaves_nothing_behind(cache, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(lowpoly, "_simplify", fail)
    with pytest.raises(OSError, match="disk full"):
        low_poly_urdf(panda_urdf())
    assert not list(cache.iterdir())


def test_another_process_may_be_faster(cache, monkeypatch):
    def write(urdf, folder, final_folder):
        (folder / "mine").touch()
        final_folder.mkdir()
        (final_folder / "theirs").touch()

    monkeypatch.setattr(lowpoly, "_write_low_poly", write)
    folder = low_poly_urdf(panda_urdf()).parent
    assert [file.name for file in folder.iterdir()] == ["theirs"]
    assert list(cache.iterdir()) == [folder]


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lowpoly._cache_folder.__wrapped__() == tmp_path / "gaze_torchrl"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert lowpoly._cache_folder.__wrapped__().is_dir()
