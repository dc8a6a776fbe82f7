"""Metrics of evaluation episodes by hand-computed cases."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, ImpalaCNN, MapGeometry, NatureCNN
from gaze_torchrl.training.evaluation import (
    episode_metrics,
    gaze_density,
    gaze_distance,
    gaze_drift,
    gaze_entropy,
    gaze_on_target,
    rollout_episodes,
)

IDENTITY = MapGeometry((16, 16), (1.0, 1.0), (0.0, 0.0))


def test_episodes_of_different_lengths():
    """What happens after an episode has ended counts for nothing."""
    mask = torch.tensor([[True, True, False], [True, True, True]])
    steps = TensorDict(
        {
            "mask": mask,
            "next": {
                "reward": torch.tensor([[[1.0], [2.0], [100.0]], [[1.0], [1.0], [1.0]]]),
                "success": torch.tensor([[[False], [True], [False]], [[True], [False], [False]]]),
            },
        },
        [2, 3],
    )
    assert episode_metrics(steps, IDENTITY) == pytest.approx(
        {"return": 3.0, "length": 2.5, "success_at_end": 0.5, "success_once": 1.0, "success_time": (1 / 2 + 1 / 3) / 2}
    )


def test_a_share_is_the_number_that_a_level_is_compared_with():
    """Nine of ten are 0.9, and not the float32 a little below it."""
    success = (torch.arange(10) > 0)[:, None, None]
    steps = {"mask": torch.ones(10, 1, dtype=torch.bool), "next": {"reward": torch.ones(10, 1, 1), "success": success}}
    metrics = episode_metrics(TensorDict(steps, [10, 1]), IDENTITY)
    assert metrics["success_at_end"] == metrics["success_once"] == 0.9


def test_distance_is_to_the_nearest_fovea_in_image_coordinates():
    mean = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
    geometry = MapGeometry((8, 8), (0.5, 0.5), (0.1, 0.0))
    assert gaze_distance(mean, torch.tensor([[0.6, 0.3]]), geometry).item() == pytest.approx(0.3)


def test_distance_to_several_objects_equals_a_loop():
    """Each has a nearest fovea; their distances are averaged, whatever dimensions come before."""
    mean, center = torch.rand(2, 5, 3, 2) * 2 - 1, torch.rand(2, 5, 4, 2) * 2 - 1
    geometry = MapGeometry((8, 8), (0.5, 0.8), (0.1, 0.0))
    found = gaze_distance(mean, center, geometry)
    assert found.shape == (2, 5)
    for i in range(2):
        for j in range(5):
            foveae = [(0.5 * x + 0.1, 0.8 * y) for x, y in mean[i, j].tolist()]
            nearest = [min(math.dist(fovea, one) for fovea in foveae) for one in center[i, j].tolist()]
            assert found[i, j].item() == pytest.approx(sum(nearest) / 4, abs=1e-6)


def test_one_fovea_cannot_be_on_two_objects():
    center = torch.tensor([[[-0.6, 0.0], [0.6, 0.0]]])
    between, beside, both = torch.zeros(1, 1, 2), center[:, :1], center
    distances = [gaze_distance(mean, center, IDENTITY).item() for mean in (between, beside, both)]
    assert distances == pytest.approx([0.6, 0.6, 0.0])


@pytest.mark.parametrize(("objects", "distance"), [(1, 0.69), (2, 0.70)])
def test_resting_in_the_middle_is_as_far_as_the_docstring_says(objects, distance):
    env = ClutterEnv("medium", num_envs=4096, image_size=16, objects=objects)
    env.set_seed(0)
    center = env.reset()["truth", "center"]
    assert gaze_distance(torch.zeros(4096, 1, 2), center, IDENTITY).mean().item() == pytest.approx(distance, abs=0.01)


def test_mass_of_a_uniform_gaze_is_the_share_of_the_object():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[8:16, 24:40] = True
    assert gaze_on_target(torch.ones(16, 16), mask, FineCNN().geometry(64, 64)).item() == pytest.approx(8 * 16 / 64**2)


def test_mass_of_a_gaze_on_the_object_is_one():
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[8:16, 24:40] = True
    attention = torch.zeros(16, 16)
    attention[2:4, 6:10] = 1.0
    assert gaze_on_target(attention, mask, FineCNN().geometry(64, 64)).item() == pytest.approx(1.0)


def test_mass_where_the_map_covers_only_the_inside():
    """An object in the border that NatureCNN's map does not reach gets none."""
    geometry = NatureCNN().geometry(128, 128)
    border, inside = torch.zeros(128, 128, dtype=torch.bool), torch.zeros(128, 128, dtype=torch.bool)
    border[:10] = True
    inside[50:70, 50:70] = True
    assert gaze_on_target(torch.ones(12, 12), border, geometry) == 0
    assert gaze_on_target(torch.ones(12, 12), inside, geometry).item() == pytest.approx(20 * 20 / 96**2, rel=0.1)


@pytest.mark.parametrize("cell", range(8))
def test_mass_where_the_map_reaches_past_the_image(cell):
    """ImpalaCNN's map of 8 x 8 begins four pixels before the image: what lies in a cell is in it."""
    geometry = ImpalaCNN().geometry(64, 64)
    square, attention = torch.zeros(64, 64, dtype=torch.bool), torch.zeros(8, 8)
    start = 8 * cell - 4
    square[max(start, 0) : start + 8, max(start, 0) : start + 8] = True
    attention[cell, cell] = 1.0
    assert gaze_on_target(attention, square, geometry) == (0.25 if cell == 0 else 1.0), "half outside, both ways"


def test_same_seed_same_episodes():
    env = ClutterEnv("medium", num_envs=4, image_size=16)
    still = TensorDictModule(lambda proprio: torch.zeros_like(proprio), in_keys=["proprio"], out_keys=["action"])
    first, second = (rollout_episodes(env, still, seed=7) for _ in range(2))
    assert torch.equal(first["pixels"], second["pixels"])
    assert first.shape == (4, 20)
    assert first["mask"].all()


def test_episodes_that_were_cut_are_said_to_be():
    env = ClutterEnv("medium", num_envs=2, image_size=16)
    still = TensorDictModule(lambda proprio: torch.zeros_like(proprio), in_keys=["proprio"], out_keys=["action"])
    with pytest.warns(UserWarning, match=r"had not ended after 10 steps and were cut there: set .* env\.horizon"):
        rollout_episodes(env, still, seed=7, max_steps=10)


def test_density_gives_each_fovea_the_same_share():
    foveae = torch.zeros(2, 4, 4)
    foveae[0, 1, 2] = 0.7  # narrow
    foveae[1] = 1.0  # wide
    density = gaze_density(TensorDict({"foveae": foveae, "map": torch.rand(4, 4)}))
    assert density.sum().item() == pytest.approx(1.0)
    assert density[1, 2].item() == pytest.approx(0.5 + 0.5 / 16)
    assert density[0, 0].item() == pytest.approx(0.5 / 16)


def test_entropy_is_that_of_the_number_of_equal_cells():
    density = torch.zeros(3, 4, 4, dtype=torch.float64)
    density[0, 1, 2] = 1.0
    density[1, :2] = 1 / 8
    density[2] = 1 / 16
    torch.testing.assert_close(gaze_entropy(density), torch.tensor([0.0, 0.75, 1.0], dtype=torch.float64))


def test_drift_is_the_mean_way_of_the_foveae_within_an_episode():
    """In image units, and without the step from the end of an episode to whatever comes after it."""
    mean = torch.zeros(1, 4, 2, 2)
    mean[0, 1:, 0, 0] = 0.6  # one of two foveae moves once, half of it in the image
    mean[0, 3] = 50.0
    geometry = MapGeometry((8, 8), (0.5, 0.5), (0.1, 0.0))
    torch.testing.assert_close(gaze_drift(mean, geometry)[0, :2], torch.tensor([0.15, 0.0]))
    mask = torch.tensor([[True, True, True, False]])
    gaze = {"mean": mean, "map": torch.ones(1, 4, 8, 8)}
    steps = TensorDict({"mask": mask, "gaze": gaze, "next": {"reward": torch.ones(1, 4, 1)}}, [1, 4])
    assert episode_metrics(steps, geometry)["gaze_drift"] == pytest.approx(0.075)


def test_density_of_a_gaze_without_foveae_is_its_map():
    attention = torch.rand(3, 4, 4)
    torch.testing.assert_close(gaze_density(TensorDict({"map": attention}, [3])).sum((-2, -1)), torch.ones(3))
    shares = gaze_density(TensorDict({"map": attention}, [3])) / attention
    torch.testing.assert_close(shares, shares[:, :1, :1].expand(3, 4, 4))
