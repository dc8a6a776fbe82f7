"""Visual clutter changes pictures and nothing else; the colliding kind can be hit; both keep out of the way."""

import copy
import itertools
import logging

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

from gaze_torchrl.envs import maniskill_clutter
from gaze_torchrl.envs.lowpoly import LowPolyVisuals
from gaze_torchrl.envs.maniskill_clutter import CLUTTERED, with_distractors
from gaze_torchrl.envs.maniskill_looks import COLOR_DISTANCE
from gaze_torchrl.envs.maniskill_simulation import keep_renderer
from gaze_torchrl.envs.maniskill_tasks import TASKS
from tests.envs.maniskill_support import skip_without_maniskill, task_class

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

COUNT = 8
KINDS = ("visual", "colliding")
STEPS = 4
TOLERANCE = 0.005  # metres: objects and lines are points to the code under test, and exact here


@pytest.fixture(scope="module", autouse=True)
def renderer():
    keep_renderer()


@pytest.fixture(scope="module", params=CLUTTERED)
def task(request):
    return request.param


@pytest.fixture(scope="module")
def plain(task):
    yield from opened(task_class(task))


@pytest.fixture(scope="module")
def visual(task):
    yield from opened(with_distractors(task_class(task), COUNT))


@pytest.fixture(scope="module")
def colliding(task):
    """Also of the task's colours."""
    yield from opened(with_distractors(task_class(task), COUNT, "colliding", "task"))


def opened(scene_class, **options):
    from mani_skill import logger

    logger.setLevel(logging.ERROR)
    size = {"width": 64, "height": 64, "shader_pack": "default"}
    env = type("Scene", (LowPolyVisuals, scene_class), {})(
        obs_mode="rgb+segmentation", sensor_configs=size, sim_backend="physx_cpu", render_backend="cpu", **options
    )
    yield env
    env.close()


def own_actors(env):
    """The task's own, without scenery and distractors."""
    scenery = ("ground", "table-workspace")
    return {k: v for k, v in env.scene.actors.items() if k not in scenery and not k.startswith("distractor")}


def distractors(env):
    return {name: actor for name, actor in env.scene.actors.items() if name.startswith("distractor")}


def places(env):
    return torch.cat([actor.pose.raw_pose for actor in distractors(env).values()])


def shapes(actor):
    from sapien.render import RenderBodyComponent

    return actor._objs[0].find_component_by_type(RenderBodyComponent).render_shapes


def colors(actors):
    return {tuple(shape.material.base_color[:3]) for actor in actors for shape in shapes(actor)}


def half_size(shape):
    """Of a box, a sphere or a cylinder along x, by which SAPIEN scales a mesh of size 2."""
    kind = type(shape).__name__.removeprefix("RenderShape")
    if kind == "Box":
        return shape.half_size
    return np.array([{"Sphere": shape.radius}.get(kind) or shape.half_length, shape.radius, shape.radius])


def vertices(actor):
    """Of the meshes that are drawn, in the world, one array [v, 3] for each shape."""
    for shape in shapes(actor):
        matrix = (actor._objs[0].pose * shape.local_pose).to_transformation_matrix()
        yield (shape.vertices * half_size(shape)) @ matrix[:3, :3].T + matrix[:3, 3]


def to_segment(point, start, end):
    """Distance of a point to a segment, [2] each."""
    along = end - start
    share = np.clip((point - start) @ along / max(along @ along, 1e-12), 0, 1)
    return np.linalg.norm(point - start - share * along)


def to_polygon(point, corners):
    """Distance of a point to the convex hull of points [p, 2], 0 inside."""
    hull = ConvexHull(corners)
    if (hull.equations @ [*point, 1] <= 0).all():
        return 0.0
    return min(to_segment(point, *corners[edge]) for edge in hull.simplices)


def footprints(env):
    """Of the distractors: centre [2] and radius of the circle around what is drawn."""
    for actor in distractors(env).values():
        (mesh,) = vertices(actor)
        center = actor.pose.p[0, :2].numpy()
        yield center, np.linalg.norm(mesh[:, :2] - center, axis=-1).max()


def play(env, seed):
    """A seeded reset and steps: observation, reward and information of each."""
    actions = 2 * torch.rand(STEPS, *env.single_action_space.shape, generator=torch.Generator().manual_seed(0)) - 1
    observation, info = env.reset(seed=seed)
    yield copy.deepcopy((observation, torch.zeros(1), info))  # ManiSkill writes into what it handed out
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        yield copy.deepcopy((observation, reward, info))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[key])
        elif torch.is_tensor(value):
            assert torch.equal(value, other[key]), key


def test_every_table_top_task_has_clutter():
    assert set(CLUTTERED) == {task for task in TASKS if "Cartpole" not in task and "Clutter" not in task}


# Without a seed the task draws from torch's global generator.
@pytest.mark.parametrize("seeds", [(3, 4), (5, None)])
def test_visual_clutter_changes_pictures_and_nothing_else(plain, visual, seeds):
    with torch.random.fork_rng():
        for seed in seeds:
            torch.manual_seed(7)
            steps = list(play(plain, seed))
            state, dice = plain.get_state_dict(), torch.get_rng_state()
            torch.manual_seed(7)
            for (one, reward, info), (other, other_reward, other_info) in zip(steps, play(visual, seed), strict=True):
                assert_equal(one["agent"], other["agent"])
                assert_equal(one["extra"], other["extra"])
                assert_equal(info, other_info)
                assert torch.equal(reward, other_reward)
                pictures = [obs["sensor_data"]["base_camera"]["rgb"] for obs in (one, other)]
                assert (pictures[0] != pictures[1]).any(-1).sum() > 10
            other_state = visual.get_state_dict()
            assert_equal(state["articulations"], other_state["articulations"])
            assert_equal(state["actors"], {name: other_state["actors"][name] for name in state["actors"]})
            assert torch.equal(dice, torch.get_rng_state())
            assert plain._batched_episode_rng.uniform() == visual._batched_episode_rng.uniform()


@pytest.mark.parametrize("kind", KINDS)
def test_distractors_stand_on_the_table_and_keep_clear(request, kind, plain):
    env = request.getfixturevalue(kind)
    low, high = np.array(env.region).reshape(2, 2).T
    for seed in range(4):
        first = env.reset(seed=seed)[0]
        objects = list(own_actors(env).values())
        centers = [actor.pose.p[0, :2].numpy() for actor in objects]
        circles = list(footprints(env))
        assert len(circles) == COUNT
        for center, radius in circles:
            assert (low <= center).all()
            assert (center <= high).all()
            gap = maniskill_clutter.OBJECT_GAP - TOLERANCE
            for mesh in itertools.chain.from_iterable(map(vertices, objects)):
                assert to_polygon(center, mesh[:, :2]) - radius > gap
            for start, end in itertools.combinations(centers, 2):
                assert to_segment(center, start, end) - radius > gap
        for (one, r), (other, s) in itertools.combinations(circles, 2):
            assert np.linalg.norm(one - other) - r - s > maniskill_clutter.DISTRACTOR_GAP - 1e-4
        for actor in distractors(env).values():
            (mesh,) = vertices(actor)
            assert abs(mesh[:, 2].min()) < 1e-4
        # Seen by the camera, and not in front of what the task is about.
        masks = [obs["sensor_data"]["base_camera"]["segmentation"] for obs in (plain.reset(seed=seed)[0], first)]
        assert sum((masks[1] == actor.per_scene_id).any().item() for actor in distractors(env).values()) > COUNT / 2
        for name, actor in own_actors(plain).items():
            seen, left = ((mask == actor.per_scene_id).sum() for mask in masks)
            assert env.scene.actors[name].per_scene_id == actor.per_scene_id
            assert left >= 0.9 * seen


def test_places_follow_from_the_episode(visual):
    def reset(seed):
        visual.reset(seed=seed)
        return places(visual)

    first, other, again, unseeded = reset(1), reset(2), reset(1), reset(None)
    assert torch.equal(first, again)
    assert (first != other).any(-1).all()
    assert (unseeded[:, :2] != again[:, :2]).any(-1).all()


def test_any_color_keeps_away_from_the_task_objects(visual):
    for one, other in itertools.product(colors(distractors(visual).values()), colors(own_actors(visual).values())):
        assert np.linalg.norm(np.subtract(one, other)) > COLOR_DISTANCE - 1e-3


def test_task_colors_are_those_of_the_movable_objects_but_no_distractor_is_a_twin(colliding):
    movable = [actor for actor in own_actors(colliding).values() if actor.px_body_type == "dynamic"]
    assert colors(distractors(colliding).values()) == colors(movable)
    originals = list(itertools.chain.from_iterable(map(shapes, movable)))
    for actor in distractors(colliding).values():
        (shape,) = shapes(actor)
        like = [one for one in originals if one.material.base_color == shape.material.base_color]
        size = np.prod(half_size(shape)) ** (1 / 3)
        assert any(0.89 < size / min(half_size(one)) < 1.11 for one in like)
        if type(shape).__name__ == "RenderShapeSphere":
            assert all(type(one).__name__ == "RenderShapeBox" for one in like)
        else:
            assert max(half_size(shape)) > 1.5 * min(half_size(shape))


def test_colliding_clutter_leaves_the_initial_state_and_stays_until_hit(plain, colliding):
    assert_equal(plain.reset(seed=6)[0]["extra"], colliding.reset(seed=6)[0]["extra"])
    start, other = plain.get_state_dict(), colliding.get_state_dict()
    assert_equal(start["articulations"], other["articulations"])
    assert_equal(start["actors"], {name: other["actors"][name] for name in start["actors"]})
    before = places(colliding)
    for _ in range(STEPS):
        colliding.step(torch.zeros(colliding.single_action_space.shape))
        links = {link.entity for link in colliding.agent.robot._objs[0].links}
        bodies = {actor._objs[0] for actor in distractors(colliding).values()}
        for contact in colliding.scene.get_contacts():
            touching = {body.entity for body in contact.bodies}
            assert not (touching & links and touching & bodies), "the robot starts in a distractor"
    assert (places(colliding)[:, :3] - before[:, :3]).norm(dim=-1).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_free_place_distractors_lie_out_of_sight(request, monkeypatch, task, kind):
    env = request.getfixturevalue(kind)
    monkeypatch.setattr(maniskill_clutter, "OBJECT_GAP", 2.0)
    observation, _ = env.reset(seed=0)
    segmentation, hidden = observation["sensor_data"]["base_camera"]["segmentation"], places(env)[:, :2]
    assert not any((segmentation == actor.per_scene_id).any() for actor in distractors(env).values())
    env.reset(seed=1)
    assert torch.equal(places(env)[:, :2], hidden)
    for _ in range(STEPS):
        env.step(torch.zeros(env.single_action_space.shape))
    # On the floor, whose height is ManiSkill's.
    for actor in distractors(env).values():
        (mesh,) = vertices(actor)
        assert mesh[:, 2].min() == pytest.approx(-0.9196429, abs=1e-3)


@pytest.fixture(scope="module")
def push_cube():
    """For each kind, one environment."""
    kinds = [opened(with_distractors(task_class("PushCube-v1"), COUNT, kind), first_scene=3) for kind in KINDS]
    yield dict(zip(KINDS, map(next, kinds), strict=True))
    for env in kinds:
        next(env, None)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_colliding_kind_is_hit(push_cube, kind):
    env = push_cube[kind]
    env.reset(seed=1)
    cube = env.obj.pose.p[0]
    before = places(env)[:, :3]
    nearest = (before - cube).norm(dim=-1).argmin()
    way = before[nearest] - cube
    env.obj.set_linear_velocity(3 * way / way.norm() * torch.tensor([1, 1, 0]))
    for _ in range(10):
        env.step(torch.zeros(env.single_action_space.shape))
    moved = (places(env)[:, :3] - before).norm(dim=-1)
    if kind == "colliding":
        assert moved[nearest] > 0.02
    else:
        assert (moved == 0).all()
        assert (env.obj.pose.p[0] - cube).norm() > way.norm() + 0.1, "nothing stopped it"


def test_colliding_distractors_weigh_what_wood_weighs(push_cube):
    for actor in distractors(push_cube["colliding"]).values():
        a, b, c = half_size(shapes(actor)[0])
        volume = {"Box": 8 * a * b * c, "Sphere": 4 / 3 * np.pi * a**3, "Cylinder": 2 * np.pi * a * b * c}
        kind = type(shapes(actor)[0]).__name__.removeprefix("RenderShape")
        # PhysX's cylinder is a polyhedron.
        assert actor._bodies[0].mass == pytest.approx(600 * volume[kind], rel=0.05)


def test_state_holds_the_distractors(push_cube):
    env = push_cube["colliding"]
    env.reset(seed=1)
    state, before = env.get_state(), places(env)
    env.reset(seed=2)
    assert (places(env) != before).any()
    env.set_state(state)
    torch.testing.assert_close(places(env), before, rtol=0, atol=1e-6)
