"""What an episode begins with, against loops over lanes and candidates; and worlds as they were when first drawn."""

import math

import pytest
import torch
from torch import Tensor

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS
from gaze_torchrl.envs.clutter_objects import draw_objects, first_far, unlike_targets

RED, GREEN = [220.0, 40.0, 40.0], [40.0, 220.0, 40.0]


def draw(level: str, objects: int, lanes: int) -> dict[str, Tensor]:
    return draw_objects(LEVELS[level], objects, lanes, torch.Generator().manual_seed(5))


def first_far_naively(candidates: list, distance: list[float]) -> list:
    for candidate, far in zip(candidates, distance, strict=True):
        if far >= 0.5:
            return candidate
    return candidates[distance.index(max(distance))]


@pytest.mark.parametrize("objects", [1, 2])
def test_places_equal_loops(objects: int) -> None:
    """The same random numbers, read by a loop: the target or the pair, then the agent, then the distractors."""
    lanes, generator = 300, torch.Generator().manual_seed(5)
    shape = (lanes, 1, 2) if objects == 1 else (lanes, 8, 2, 2)
    targets = (torch.rand(shape, generator=generator) * 1.8 - 0.9).tolist()
    starts = (torch.rand(lanes, 8, 2, generator=generator) * 2 - 1).tolist()
    distractors = torch.rand(lanes, 10, 2, generator=generator) * 2 - 1
    center = draw("medium", objects, lanes)["center"]
    assert center[:, :10].equal(distractors)
    for lane in range(lanes):
        mine = targets[lane]
        if objects == 2:
            mine = first_far_naively(mine, [math.dist(*pair) for pair in mine])
        goal = [sum(one[axis] for one in mine) / objects for axis in (0, 1)]
        agent = first_far_naively(starts[lane], [math.dist(start, goal) for start in starts[lane]])
        expected = torch.tensor([*mine, agent])
        torch.testing.assert_close(center[lane, 10:], expected)


@pytest.mark.parametrize("level", LEVELS)
def test_two_targets_follow_the_rules(level: str) -> None:
    rules, k = LEVELS[level], LEVELS[level].distractors
    drawn = draw(level, 2, 4096)
    center, velocity, radius, color = drawn["center"], drawn["velocity"], drawn["radius"], drawn["color"]
    red, green, agent = center[:, k], center[:, k + 1], center[:, k + 2]
    assert 0.5 <= (red - green).norm(dim=-1).min() < 0.51
    assert 0.5 <= (agent - (red + green) / 2).norm(dim=-1).min() < 0.51
    for one in (red, green):  # neither has a place of its own
        assert 0.89 < one.abs().max() <= 0.9
        assert one.mean(0).abs().max() < 0.03
        assert one.std(0).sub(0.534).abs().max() < 0.02
    assert color[:, k:].equal(torch.tensor([RED, GREEN, [255.0] * 3]).expand(4096, 3, 3))
    assert radius[:, k:].equal(torch.tensor([0.11, 0.11, 0.09]).expand(4096, 3))

    speed = velocity.norm(dim=-1)
    assert speed[:, k : k + 2].sub(rules.target_speed).abs().max() < 1e-6
    assert not speed[:, k + 2].any()
    if rules.target_speed:  # each in a direction of its own
        assert (velocity[:, k] * velocity[:, k + 1]).sum(-1).mean().abs() < 0.05 * rules.target_speed**2

    solid, rings = color[:, : k - rules.rings], color[:, k - rules.rings : k]
    for channel in (0, 1):
        others = [other for other in range(3) if other != channel]
        excess = solid[..., channel] - solid[..., others].amax(-1)
        assert 0.19 * 255 < excess.max() <= 0.2 * 255 + 1e-3
    assert (solid[..., 2] - solid[..., :2].amax(-1)).max() > 0.9 * 255
    assert rings.equal(torch.tensor([RED, GREEN])[torch.arange(rules.rings) % 2].expand_as(rings))
    assert radius[:, k - rules.rings : k].eq(0.11).all()


def test_the_first_far_candidate_else_the_farthest() -> None:
    candidates = torch.tensor([[[0.1, 0], [0.6, 0], [1.0, 1.0]], [[0.1, 0], [0.3, 0], [0.2, 0]]])
    assert first_far(candidates, candidates.norm(dim=-1))[:, 0].tolist() == pytest.approx([0.6, 0.3])


def test_what_leads_like_a_target_is_swapped_with_blue() -> None:
    color = torch.tensor([[0.9, 0.1, 0.2], [0.9, 0.75, 0.1], [0.9, 0.1, 0.75], [0.1, 0.2, 0.9], [0.1, 0.9, 0.3]])
    one, two = color.clone(), color.clone()
    one[0] = two[0] = torch.tensor([0.2, 0.1, 0.9])
    two[4] = torch.tensor([0.1, 0.3, 0.9])
    assert unlike_targets(color, 1).equal(one)
    assert unlike_targets(color, 2).equal(two)


# Numbers of a world that must never change. A machine may round a pixel the other way; another draw changes them all.
WORLDS = {
    ("easy", 1): (3467199499, 5.8399217995174695, -37.878190726041794),
    ("medium", 1): (3581649790, 10.919198478164617, 47.7942955493927),
    ("hard", 1): (3550017690, 6.776912948000245, -54.685888301581144),
    ("shift", 1): (4061062057, 12.58874785185617, -49.97193515300751),
    ("easy", 2): (3459863537, 2.2672482534544542, 398.73370319604874),
    ("medium", 2): (3585907120, 2.141230839304626, 404.28116858005524),
    ("hard", 2): (3617276518, 4.539640624076128, 478.3817831762135),
    ("shift", 2): (4108631489, 2.037583111668937, 309.4498009979725),
}


@pytest.mark.parametrize(("level", "objects"), WORLDS)
def test_the_world_is_as_it_was(level: str, objects: int) -> None:
    pixels, reward, center = fingerprint(ClutterEnv(level, num_envs=4, image_size=32, objects=objects, seed=11))
    expected = WORLDS[level, objects]
    assert pixels == pytest.approx(expected[0], rel=1e-6)
    assert (reward, center) == pytest.approx(expected[1:], rel=1e-5)


def fingerprint(env: ClutterEnv) -> tuple[int, float, float]:
    """Weighted sums of pixels, rewards and the targets' places over two episodes with fixed actions."""
    actions = torch.linspace(-1, 1, 4 * 2 * 25).view(25, 4, 2)
    step, sums = env.reset(), []
    for action in actions:
        step, after = env.step_and_maybe_reset(step.set("action", action))
        sums.append([weighted(step["next"][key]) for key in ("pixels", "reward", ("truth", "center"))])
        step = after
    pixels, reward, center = (sum(column) for column in zip(*sums, strict=True))
    return int(pixels), reward, center


def weighted(values: Tensor) -> float:
    flat = values.flatten().double()
    return float((flat * (torch.arange(len(flat)) % 251 + 1)).sum())
