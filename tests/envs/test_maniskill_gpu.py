"""All scenes as one batch: against the same scenes one by one, through a stand-in; and on a GPU where there is one."""

from types import SimpleNamespace

import pytest
import torch
from torchrl.envs import check_env_specs

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_simulation import _load_gpu_physics
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

SMALL = {"task": "PickCube-v1", "num_envs": 3, "image_size": 32}


def batched(entries):
    """Nested dicts of [1, ...] as one of [n, ...]."""
    if isinstance(entries[0], dict):
        return {key: batched([entry[key] for entry in entries]) for key in entries[0]}
    return torch.cat([torch.as_tensor(entry) for entry in entries])


class Together:
    """The interface of ManiSkill's environment on a GPU, made from environments on the CPU."""

    device = torch.device("cpu")

    def __init__(self, scenes):
        self.scenes, self.num_envs = scenes, len(scenes)
        self.asked = []

    def reset(self, seed, options):
        assert len(seed) == self.num_envs, "ManiSkill takes a seed for every scene"
        self.asked.append((list(seed), options["env_idx"].tolist()))
        for i in options["env_idx"].tolist():
            self.scenes[i].reset(seed=seed[i])
        infos = [scene.get_info() for scene in self.scenes]
        return batched([scene.get_obs(info) for scene, info in zip(self.scenes, infos, strict=True)]), batched(infos)

    def step(self, action):
        observations, rewards, ended, _, infos = zip(
            *[scene.step(command) for scene, command in zip(self.scenes, action, strict=True)], strict=True
        )
        return batched(observations), torch.cat(rewards), torch.cat(ended), None, batched(infos)

    def __getattr__(self, name):
        targets = [getattr(scene, name) for scene in self.scenes]
        place = torch.cat([target.pose.p for target in targets])
        return SimpleNamespace(pose=SimpleNamespace(p=place), per_scene_id=torch.cat([t.per_scene_id for t in targets]))


@pytest.fixture
def pair():
    """Three scenes, one by one and as a batch."""
    one_by_one, together = (ManiSkillEnv(**SMALL).simulation for _ in range(2))
    together.scenes, together._gpu = [Together(together.scenes)], True
    return one_by_one, together


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, entry in expected.items():
        assert torch.equal(found[key], entry), key


def test_a_batch_is_its_scenes(pair):
    one_by_one, together = pair
    rows, seeds = [0, 1, 2], [5, 6, 7]
    assert_same(together.reset(rows, seeds), one_by_one.reset(rows, seeds))
    for t in range(4):
        action = torch.rand(3, 8, generator=torch.Generator().manual_seed(t)) * 2 - 1
        found, expected = (simulation.step(action) for simulation in (together, one_by_one))
        assert_same(found, expected)
        assert found["reward"].shape == found["ended"].shape == found["success"].shape == (3, 1)
        if t == 1:
            assert_same(together.reset([1, 2], [8, 9]), one_by_one.reset([1, 2], [8, 9]))


def test_partial_reset_seeds_torch_anew(pair):
    """ManiSkill seeds torch's draws for all scenes by the first scene's seed: an old one would repeat old episodes."""
    _, together = pair
    together.reset([0, 1, 2], [5, 6, 7])
    together.reset([2], [8])
    together.reset([1], [9])
    asked = together.scenes[0].asked
    assert [rows for _, rows in asked] == [[0, 1, 2], [2], [1]]
    assert [seeds[0] for seeds, _ in asked] == [5, 8, 9]
    assert [seeds[row] for seeds, (row,) in ((seeds, rows) for seeds, rows in asked[1:])] == [8, 9]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu():
    with pytest.raises(ValueError, match=r"env.simulation=gpu needs a CUDA device that can also draw, found none"):
        ManiSkillEnv(**SMALL, simulation="gpu")
    with pytest.raises(ValueError, match=r"env.num_workers must be 1 with env.simulation=gpu, got 2"):
        ManiSkillEnv(**SMALL, simulation="gpu", num_workers=2)
    with pytest.raises(ValueError, match=r"env.shift=color-1 changes the looks of scenes one by one, on the CPU"):
        ManiSkillEnv(**SMALL, simulation="gpu", shift="color-1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    "more", [{}, {"distractors": 4}, {"depth": 1.0, "frame_stack": 2}], ids=["plain", "clutter", "views"]
)
def test_on_a_gpu(more):
    env = ManiSkillEnv(**SMALL, **more, simulation="gpu", horizon=4)
    assert env.device.type == "cuda"
    check_env_specs(env)
    env.set_seed(0)
    steps = env.rollout(10, break_when_any_done=False)
    assert all(entry.is_cuda for entry in steps.values(True, True))
    assert steps["next", "truncated"][0, :, 0].tolist() == [t % 4 == 3 for t in range(10)]
    first = steps["pixels"].float()
    assert (first[0, 0] - first[1, 0]).abs().mean() > 0.1, "scenes differ"
    env.set_seed(0)
    again = env.rollout(10, policy=lambda td: td.set("action", steps["action"][:, 0]), break_when_any_done=False)
    assert torch.equal(again["pixels"][:, 0], steps["pixels"][:, 0])
    td = again[:, -1]["next"]
    fresh = env.reset(td.clone().set("_reset", torch.tensor([[False], [True], [False]], device=env.device)))
    assert torch.equal(fresh["proprio"][0], td["proprio"][0])
    assert (fresh["proprio"][1] != td["proprio"][1]).any()
    env.close()


def test_physics_that_cannot_be_downloaded(monkeypatch):
    import requests
    import sapien.physx

    def fail():
        raise requests.ConnectionError

    monkeypatch.setattr(sapien.physx, "enable_gpu", fail)
    with pytest.raises(ValueError, match=r"SAPIEN could not download: use it once .*\.sapien/physx"):
        _load_gpu_physics()
