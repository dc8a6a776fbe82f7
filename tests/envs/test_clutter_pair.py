"""The task with two targets: the rules of docs/clutter.md, played by a loop over lanes and pixels."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS, ClutterLevel
from gaze_torchrl.envs.clutter_render import disk_mask
from gaze_torchrl.export import export_run, load_policy
from gaze_torchrl.training.experiment import evaluate_run
from gaze_torchrl.viewing.page import view_run
from tests.training.support import tiny_run

from .test_clutter_render import paint_naively


def pair(level: str | ClutterLevel = "medium", **kwargs) -> ClutterEnv:
    return ClutterEnv(level, **{"num_envs": 4, "image_size": 32, "objects": 2, "seed": 0, **kwargs})


def put(env: ClutterEnv, red: tuple[float, float], green: tuple[float, float], agent: tuple[float, float]) -> None:
    env.reset()
    env.center[:, -3:] = torch.tensor([red, green, agent])


def act(env: ClutterEnv, x: float, y: float) -> TensorDict:
    action = torch.tensor([x, y]).expand(env.batch_size[0], 2)
    return env.step(TensorDict(action=action, batch_size=env.batch_size))["next"]


def go(red: float, green: float) -> Callable[[TensorDict], TensorDict]:
    """A policy that goes to a weighted sum of the targets' places."""

    def policy(td: TensorDict) -> TensorDict:
        goal = (td["truth", "center"] * torch.tensor([[red], [green]])).sum(-2)
        return td.set("action", (goal - td["proprio"]) / 0.2)

    return policy


@pytest.mark.parametrize("reward", ["dense", "sparse"])
@pytest.mark.parametrize("level", LEVELS)
def test_episodes_equal_a_loop(level: str, reward: str) -> None:
    lanes, steps, size = 3, 15, 16
    env = pair(level, num_envs=lanes, image_size=size, reward=reward)
    first = env.reset()
    start, velocity = env.center.double().numpy().copy(), env.velocity.double().numpy().copy()
    actions = torch.rand(lanes, steps, 2, generator=torch.Generator().manual_seed(3)) * 4 - 2
    agent = start[:, -1].copy()
    td = first
    for t in range(1, steps + 1):
        td = env.step(td.set("action", actions[:, t - 1]))["next"]
        for lane in range(lanes):
            unfolded = (start[lane, -3:-1] + velocity[lane, -3:-1] * t + 1) % 4  # walls reflect: a triangle wave
            red, green = np.where(unfolded > 2, 4 - unfolded, unfolded) - 1
            agent[lane] = np.clip(agent[lane] + 0.2 * np.clip(actions[lane, t - 1].numpy(), -1, 1), -1, 1)
            d = math.dist(agent[lane], (red + green) / 2)
            assert td["success"][lane].item() == (d < 0.15)
            expected = (d < 0.15) + (0.3 * (1 - math.tanh(2 * d)) if reward == "dense" else 0)
            assert td["reward"][lane].item() == pytest.approx(expected, abs=1e-5)
            assert td["truth", "center"][lane].tolist() == [
                pytest.approx(red, abs=1e-5),
                pytest.approx(green, abs=1e-5),
            ]
            for row in range(size):
                for column in range(size):
                    pixel = ((2 * column + 1) / size - 1, (2 * row + 1) / size - 1)
                    inside = min(math.dist(pixel, red), math.dist(pixel, green)) <= 0.11
                    assert td["truth", "mask"][lane, row, column] == inside


@pytest.mark.parametrize("level", ["medium", "hard", "shift"])
def test_frames_equal_pixel_loop(level: str) -> None:
    """Background, distractors, the red and the green target, the agent: each hides what comes before."""
    env = pair(level, num_envs=1)
    put(env, (0.0, 0.0), (0.15, 0.0), (0.25, 0.0))
    pixels = act(env, 0, 0)["pixels"]
    rules = LEVELS[level]
    shapes = ["disk"] * rules.disks + ["square"] * rules.squares + ["ring"] * rules.rings + ["disk"] * 3
    looks = (env.center[0].tolist(), env.radius[0].tolist(), env.color[0].tolist())
    objects = [(shape, *c, r, rgb) for shape, c, r, rgb in zip(shapes, *looks, strict=True)]
    pad = (env.backdrop.shape[-1] - 32) // 2
    expected = paint_naively(env.backdrop[0, :, pad:-pad, pad:-pad].numpy(), objects)
    assert abs(pixels[0].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("d", "success"), [(0.14, True), (0.16, False), (0.0, True)])
def test_the_goal_is_the_middle(d: float, success: bool) -> None:
    env = pair(reward="sparse")
    put(
        env, (-0.6, 0.5), (0.2 + 2 * d, -0.3), (-0.4, 0.1)
    )  # their middle is d to the right of where the agent comes to
    td = act(env, 1, 0)
    assert td["reward"].flatten().tolist() == [success] * 4
    assert td["success"].flatten().tolist() == [success] * 4


def test_no_distractor_looks_green_or_red() -> None:
    env = pair(ClutterLevel(distractors=1, brightness=(0.3, 0.3)), num_envs=256)
    td = env.reset()
    pixels = td["pixels"].int()
    near = disk_mask(td["truth", "center"], 0.11 + 3 / 32, 32).any(1)
    for channel, others in ((0, [1, 2]), (1, [0, 2])):
        excess = pixels[:, channel] - pixels[:, others].amax(1)
        assert excess[near].max() == 180
        assert excess[~near].max() <= 0.2 * 255 + 1


def test_one_target_is_not_enough() -> None:
    """Who knows both comes to the middle and stays. Who goes to one, or half of the way to it, where the middle is on
    average, or acts at random, does not."""

    def share(env: ClutterEnv, policy: Callable | None) -> float:
        return env.rollout(20, policy)["next", "success"][:, -1].float().mean().item()

    for level in LEVELS:
        env = pair(level, num_envs=256, image_size=16)
        assert share(env, go(0.5, 0.5)) > 0.98
        for red, green in [(1, 0), (0, 1), (0.5, 0), (0, 0.5), (0, 0)]:
            assert share(env, go(red, green)) < 0.2, (level, red, green)
        assert share(env, None) < 0.05


def test_partial_reset_leaves_other_lanes_alone() -> None:
    env = pair("hard")
    td = env.rollout(3)["next"][:, -1].exclude("reward")
    lanes = torch.tensor([False, True, False, True])
    fresh = env.reset(td.clone().set("_reset", lanes[:, None]))
    assert (fresh[~lanes] == td[~lanes]).all()
    assert (fresh["truth", "center"][lanes] != td["truth", "center"][lanes]).flatten(1).any(1).all()


def test_seed_decides_the_episodes() -> None:
    one, same, other = (pair(seed=seed).reset() for seed in (7, 7, 8))
    assert (one == same).all()
    assert not one["pixels"].equal(other["pixels"])


def test_a_run_is_evaluated_viewed_and_exported(tmp_path: Path) -> None:
    """The whole of it, from training to the page, reads the truth of two targets."""
    run = tiny_run(tmp_path / "run", "task=pair", "evaluation.video_episodes=1")
    with (run / "evaluation.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    _, metrics = evaluate_run(run)
    assert metrics["gaze_distance"] == pytest.approx(float(last["gaze_distance"]))
    assert 0 < metrics["gaze_distance"] < 1.5
    assert 0 < metrics["gaze_on_target"] < 0.1
    assert "Gaze: distance to target" in view_run(run).read_text()
    folder = export_run(run)
    seen = pair(num_envs=2, image_size=32).reset()
    assert load_policy(folder)(seen["pixels"], seen["proprio"])["action"].shape == (2, 2)
    assert (folder / "README.md").read_text().startswith("# FovealGaze on clutter: pair\n")
