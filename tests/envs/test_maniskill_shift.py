"""Shifts change the picture by their strength, and nothing else: neither the episode nor the scene beside it."""

import copy
import functools
import itertools
import logging

import numpy as np
import pytest
import torch

from gaze_torchrl.envs import ManiSkillEnv, maniskill_surfaces
from gaze_torchrl.envs.lowpoly import LowPolyVisuals
from gaze_torchrl.envs.maniskill_clutter import with_distractors
from gaze_torchrl.envs.maniskill_shift import SHIFTS, Shifted, parse_shift, with_shift
from gaze_torchrl.envs.maniskill_tasks import TASKS, task_specification
from gaze_torchrl.envs.wrapping import ShiftDoesNotApply
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

LOOKS = ("color", "texture", "lighting", "camera")
NAMES = [f"{kind}-{strength}" for kind in LOOKS for strength in (1, 2, 3)]
OTHER_TASKS = [
    ("PegInsertionSide-v1", "color-3"),  # builds its scene anew at every reset
    ("MS-CartpoleBalance-v1", "texture-2"),  # has neither table nor ground
    ("PushT-v1", "texture-3"),  # has changed the table's materials itself
    ("StackCube-v1", "lighting-3"),
    ("RollBall-v1", "camera-3"),
]


def build(scene_class):
    from mani_skill import logger

    logger.setLevel(logging.ERROR)
    return scene_class(
        obs_mode="rgb+segmentation",
        reward_mode="normalized_dense",
        control_mode="pd_joint_delta_pos",
        sensor_configs={"width": 64, "height": 64, "shader_pack": "minimal"},
        sim_backend="physx_cpu",
        render_backend="cpu",
    )


def low_poly(task_class):
    return type("Scene", (LowPolyVisuals, task_class), {})


def task_class(task="PushCube-v1"):
    return task_specification(task).cls


def image(observation):
    return observation["sensor_data"]["base_camera"]["rgb"][0].numpy().copy()


def labels(observation):
    return observation["sensor_data"]["base_camera"]["segmentation"][0, ..., 0].numpy().copy()


def difference(one, other):
    return np.abs(one.astype(float) - other).mean()


@pytest.fixture(scope="module")
def pristine():
    """A plain scene, and its pictures from before there was any shifted scene in the process."""
    scene = build(low_poly(task_class()))
    yield scene, [image(scene.reset(seed=seed)[0]) for seed in range(10)]
    scene.close()


@pytest.fixture(scope="module")
def scenes(pristine):
    """Scene by the name of its shift and its task; each is made once."""

    @functools.cache
    def scene(name=None, task="PushCube-v1"):
        if name is None and task == "PushCube-v1":
            return pristine[0]
        return build(low_poly(with_shift(task_class(task), *parse_shift(name)) if name else task_class(task)))

    return scene


@functools.cache
def actions(size):
    return 2 * torch.rand(20, size, generator=torch.Generator().manual_seed(0)) - 1


def episodes(scene):
    """All that happens in an episode and at the start of the next one, without the pictures."""

    def facts(observation, info, *outcome):
        return copy.deepcopy((scene.get_state(), observation["agent"], observation["extra"], info, *outcome))

    yield facts(*scene.reset(seed=3))
    for action in actions(*scene.single_action_space.shape):
        observation, reward, ended, _, info = scene.step(action)
        yield facts(observation, info, reward, ended)
    yield facts(*scene.reset(seed=4))


@pytest.mark.parametrize(("task", "name"), [*(("PushCube-v1", name) for name in NAMES), *OTHER_TASKS])
def test_same_episode(scenes, task, name):
    torch.manual_seed(7)
    expected = list(episodes(scenes(None, task)))
    torch.manual_seed(7)
    for one, other in zip(expected, episodes(scenes(name, task)), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    assert (image(scenes(None, task).get_obs()) != image(scenes(name, task).get_obs())).any()


def test_distractors_stay_where_they_are(pristine):
    cluttered = with_distractors(task_class(), 4, "colliding", "task")
    plain, shifted = build(low_poly(cluttered)), build(low_poly(with_shift(cluttered, "camera", 3)))
    for one, other in zip(episodes(plain), episodes(shifted), strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=0)
    plain.close()
    shifted.close()


@pytest.mark.parametrize("kind", LOOKS)
def test_pictures_differ_by_strength(scenes, pristine, kind):
    differences = np.array(
        [
            [difference(image(scenes(f"{kind}-{strength}").reset(seed=seed)[0]), plain) for strength in (1, 2, 3)]
            for seed, plain in enumerate(pristine[1])
        ]
    )
    assert differences[:, 0].min() > 4  # no episode looks like the stock one
    weak, medium, strong = differences.mean(0)
    assert 1.15 * weak < medium < strong / 1.15


@pytest.mark.parametrize("kind", LOOKS)
def test_look_is_that_of_the_seed(scenes, kind):
    def look(scene, seed):
        """Picture of one and the same state."""
        scene.reset(seed=seed)
        scene.set_state(state)
        return image(scene.get_obs())

    plain, shifted = scenes(), scenes(f"{kind}-2")
    plain.reset(seed=0)
    state = plain.get_state()
    assert (look(plain, 5) == look(plain, 6)).all()
    pictures = [look(shifted, seed) for seed in range(6)]
    for one, other in itertools.combinations(pictures, 2):
        assert difference(one, other) > 2
    again = build(low_poly(with_shift(task_class(), kind, 2)))
    for seed in (4, 1):
        assert (look(shifted, seed) == pictures[seed]).all()
        assert (look(again, seed) == pictures[seed]).all()
    assert (look(again, None) == pictures[1]).all()
    again.close()


def test_plain_scenes_keep_their_pixels(scenes, pristine):
    shifted = [scenes(f"{kind}-3") for kind in LOOKS]
    late = build(low_poly(task_class()))
    for seed, picture in enumerate(pristine[1]):
        looks = [image(scene.reset(seed=seed)[0]) for scene in shifted]
        for plain in (pristine[0], late):
            assert (image(plain.reset(seed=seed)[0]) == picture).all()
        for scene, look in zip(shifted, looks, strict=True):
            assert (image(scene.get_obs()) == look).all()
    late.close()


@pytest.mark.parametrize("kind", ["color", "texture"])
def test_only_scenery_changes(scenes, kind):
    plain, shifted = scenes(), scenes(f"{kind}-3")
    for seed in range(5):
        one, other = (scene.reset(seed=seed)[0] for scene in (plain, shifted))
        assert (labels(one) == labels(other)).all()
        scenery = [plain.scene.actors[name].per_scene_id.item() for name in ("table-workspace", "ground")]
        changed = np.isin(labels(one), scenery)
        assert (image(one)[~changed] == image(other)[~changed]).all()
        for name in scenery:
            of_name = labels(one) == name
            assert difference(image(one)[of_name], image(other)[of_name]) > 5


def test_background_gets_a_color(scenes):
    task, name = OTHER_TASKS[0]
    one, other = (scene.reset(seed=0)[0] for scene in (scenes(None, task), scenes(name, task)))
    nothing = labels(one) == 0
    assert nothing.mean() > 0.1
    assert (image(one)[nothing] == 0).all()
    (color,) = np.unique(image(other)[nothing], axis=0)
    assert color.max() > 60


@pytest.mark.parametrize(("task", "least"), [("PushCube-v1", 9), ("RollBall-v1", 9), ("StackCube-v1", 8)])
def test_target_stays_visible(scenes, task, least):
    scene = scenes("camera-3", task)
    target = getattr(scene, TASKS[task].target)
    visible = 0
    for seed in range(10):
        shown = labels(scene.reset(seed=seed)[0]) == target.per_scene_id.item()
        visible += shown.any()
    assert visible >= least


def test_camera_looks_at_the_same_point(scenes):
    def projected(point):
        homogeneous = view["intrinsic_cv"][0] @ view["extrinsic_cv"][0] @ torch.cat([point, torch.ones(1)])
        return homogeneous[:2] / homogeneous[2]

    eye, target = torch.tensor([[0.3, 0, 0.6], [-0.1, 0, 0.1]])  # of PushCube
    sight = torch.nn.functional.normalize(target - eye, dim=0)
    reach = -eye @ sight
    scene = scenes("camera-3")
    for seed in range(5):
        observation, _ = scene.reset(seed=seed)
        view = scene._sensors["base_camera"].get_params()
        torch.testing.assert_close(projected(eye + reach * sight), torch.full((2,), 32.0), rtol=0, atol=1e-3)
        distance = (view["cam2world_gl"][0, :3, 3] - eye - reach * sight).norm() / reach
        assert 0.074 < abs(distance - 1) < 0.151
        # What the camera says of itself is what it draws.
        rows, columns = np.nonzero(labels(observation) == scene.obj.per_scene_id.item())
        place = torch.tensor([columns.mean(), rows.mean()]) + 0.5
        assert (place - projected(scene.obj.pose.p[0])).abs().max() < 2


def test_order_of_mixins_does_not_matter(scenes):
    expected = image(scenes("texture-3").reset(seed=2)[0])
    other = build(with_shift(low_poly(task_class()), "texture", 3))
    assert (image(other.reset(seed=2)[0]) == expected).all()
    other.close()


def test_names():
    for kind, strengths in SHIFTS.items():
        for strength in range(1, len(strengths) + 1):
            assert parse_shift(f"{kind}-{strength}") == (kind, strength)
    for name in ("lighting-4", "lighting-0", "lighting", "fog-1", "lighting-02", ""):
        with pytest.raises(ValueError, match=r"env.shift must be one of color-1, .*camera-3, .*distractor_kind-3, got"):
            parse_shift(name)


def test_distractors_are_those_of_with_distractors():
    for kind in ("distractors", "distractor_kind"):
        assert len({with_distractors(task_class(), **arguments) for arguments in SHIFTS[kind]}) == 3
        with pytest.raises(ValueError, match=f"env.shift={kind}-1 is made with with_distractors"):
            with_shift(task_class(), kind, 1)


def test_class_is_made_once():
    made = with_shift(task_class(), "color", 1)
    assert made is with_shift(task_class(), "color", 1)
    assert issubclass(made, Shifted)
    assert len({made, with_shift(task_class(), "color", 2), with_shift(task_class(), "camera", 1)}) == 3
    with pytest.raises(ValueError, match=r"env.shift must be one of .*, got 'color-4'"):
        with_shift(task_class(), "color", 4)


def test_nothing_to_change(pristine, monkeypatch):
    monkeypatch.setattr(maniskill_surfaces, "SCENERY", {"sky": 1})
    for kind in ("color", "texture"):
        with pytest.raises(
            ShiftDoesNotApply, match=rf"env.shift={kind} changes \['sky'\], this scene has \['table-workspace'"
        ):
            build(with_shift(task_class(), kind, 1))


def test_no_camera_that_stands_still(pristine):
    class OnTheWrist(task_class("StackCube-v1")):
        def _setup_sensors(self, options):
            super()._setup_sensors(options)
            self._sensors = self.scene.sensors = {"hand_camera": self._sensors["hand_camera"]}

    with pytest.raises(ShiftDoesNotApply, match=r"env.shift=camera needs a camera that stands still, got hand_camera"):
        build(low_poly(with_shift(OnTheWrist, "camera", 1)))


def test_no_table_for_distractors():
    with pytest.raises(ShiftDoesNotApply, match=r"env.shift=distractors-1 adds distractors: .* there is clutter for"):
        ManiSkillEnv("MS-CartpoleBalance-v1", num_envs=1, shift="distractors-1")
