"""Tasks with clutter as classes: several scenes in one, registered names, and the arguments that are refused."""

import importlib.util
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gaze_torchrl.envs import maniskill_clutter
from gaze_torchrl.envs.maniskill_clutter import CLUTTERED, Distractors, register_clutter, with_distractors
from gaze_torchrl.envs.maniskill_simulation import keep_renderer
from tests.envs.maniskill_support import skip_without_maniskill, task_class

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

COUNT = 8


@pytest.fixture(scope="module", autouse=True)
def renderer():
    keep_renderer()


class Table:
    """A stand-in for a task with a cube in each of several scenes, which ManiSkill has only on a GPU."""

    def __init__(self, seeds):
        import sapien
        from mani_skill.envs.scene import ManiSkillScene

        self.num_envs, self.device, self._episode_seed = len(seeds), torch.device("cpu"), np.array(seeds)
        systems = ([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem("cpu")] for _ in seeds)
        backend = SimpleNamespace(render_device=sapien.Device("cpu"))
        self.scene = ManiSkillScene(list(map(sapien.Scene, systems)), device=self.device, backend=backend)

    def _load_scene(self, options):
        from mani_skill.utils.building import actors
        from sapien import Pose

        self.cube = actors.build_cube(self.scene, 0.02, [1, 0, 0, 1], "cube", initial_pose=Pose([0, 0, 0.02]))

    def _initialize_episode(self, env_idx, options):
        from mani_skill.utils.structs import Pose

        scenes = sorted(env_idx.tolist())
        self.cube.set_pose(Pose.create_from_pq(p=[[0.1 * self._episode_seed[i], 0, 0.02] for i in scenes]))


class ClutteredTable(Distractors, Table):
    count, kind, colors, region = COUNT, "visual", "any", (-0.5, 0.5, -0.3, 0.3)


def test_several_scenes_are_those_scenes_one_by_one(monkeypatch):
    from mani_skill.utils.structs import Actor

    def set_pose_of_the_scenes_being_reset(self, pose):  # as on a GPU
        chosen = itertools.compress(self._objs, self.scene._reset_mask[self._scene_idxs])
        for entity, raw in zip(chosen, pose.raw_pose.numpy(), strict=True):
            entity.set_pose(type(entity.pose)(raw[:3], raw[3:]))

    monkeypatch.setattr(Actor, "set_pose", set_pose_of_the_scenes_being_reset)

    def reset(env, scenes):
        env.scene._reset_mask[:] = False
        env.scene._reset_mask[scenes] = True
        env._initialize_episode(torch.tensor(scenes), {})
        return torch.stack([one.pose.raw_pose for one in env._distractors])  # [count, num_envs, 7]

    def alone(seed, scene):
        env = ClutteredTable([seed], first_scene=scene)
        env._load_scene({})
        return reset(env, [0])[:, 0], env._looks[0]

    env = ClutteredTable([1, 3, 4])
    env._load_scene({})
    first = reset(env, [0, 1, 2])
    for i, seed in enumerate(env._episode_seed):
        place, looks = alone(seed, i)
        assert torch.equal(first[:, i], place)
        assert [one.shape for one in env._looks[i]] == [one.shape for one in looks]
    assert env._looks[0][0].radius != env._looks[1][0].radius
    env._episode_seed = np.array([2, 0, 1])
    second = reset(env, [2, 0])
    assert torch.equal(second[:, 1], first[:, 1])
    for i in (0, 2):
        assert torch.equal(second[:, i], alone(env._episode_seed[i], i)[0])


def test_registered_names(monkeypatch):
    import gymnasium
    from mani_skill import logger
    from mani_skill.utils.registration import REGISTERED_ENVS

    monkeypatch.setattr(logger, "warn", lambda message: pytest.fail(message) if "registered" in message else None)
    register_clutter()
    register_clutter()
    for task, level in itertools.product(CLUTTERED, ("Clutter", "ClutterHard")):
        specification = gymnasium.spec(task.replace("-v1", f"{level}-v1"))
        assert specification.max_episode_steps == REGISTERED_ENVS[task].max_episode_steps
    register_clutter(3, "colliding")
    made = {
        "PushCubeClutter-v1": (8, "visual", "any"),
        "PushCubeClutterHard-v1": (8, "visual", "task"),
        "PushCubeClutterHardColliding3-v1": (3, "colliding", "task"),
    }
    for name, expected in made.items():
        env = gymnasium.make(name, obs_mode="rgb", render_backend="cpu", sensor_configs={"width": 16, "height": 16})
        scene = env.unwrapped
        assert (scene.count, scene.kind, scene.colors) == expected
        assert env.reset(seed=0)[0]["sensor_data"]["base_camera"]["rgb"].shape == (1, 16, 16, 3)
        env.step(env.action_space.sample())
        env.close()
    with pytest.raises(ValueError, match=r"env\.distractor_kind must be one of .*, got 'solid'"):
        register_clutter(kind="solid")


def test_same_arguments_same_class():
    task = task_class("PushCube-v1")
    assert with_distractors(task, 3) is with_distractors(task, 3, kind="visual", colors="any")
    assert with_distractors(task, 3) is not with_distractors(task, 4)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("PushCube-v1", {"count": 0}, r"env\.distractors must be at least 1 here, got 0"),
        ("PushCube-v1", {"kind": "solid"}, r"env\.distractor_kind must be one of .*'colliding'.*, got 'solid'"),
        ("PushCube-v1", {"colors": "red"}, r"env\.distractor_colors must be one of .*'task'.*, got 'red'"),
        ("MS-CartpoleBalance-v1", {}, r"env\.distractors must be 0 for CartpoleBalance.*PushCube-v1"),
    ],
)
def test_errors_name_the_key(task, options, message):
    with pytest.raises(ValueError, match=message):
        with_distractors(task_class(task), **{"count": COUNT, **options})


def test_the_module_needs_maniskill_only_when_used(monkeypatch):
    for name in ("mani_skill", "sapien"):
        monkeypatch.setitem(sys.modules, name, None)  # makes its import fail
    specification = importlib.util.spec_from_file_location("without_maniskill", maniskill_clutter.__file__)
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "without_maniskill", module)
    specification.loader.exec_module(module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="ManiSkill is not installed: pip install"):
        module.register_clutter()
