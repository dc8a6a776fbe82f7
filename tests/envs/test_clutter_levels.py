"""What the levels draw, and how it looks: the rules of docs/clutter.md."""

from dataclasses import replace

import pytest
import torch
from torchrl.envs import check_env_specs

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS, ClutterLevel
from gaze_torchrl.envs.clutter_render import disk_mask

from .clutter_support import act, place, small
from .test_clutter_render import paint_naively


@pytest.mark.parametrize(
    "fields",
    [{"rings": 3}, {"squares": -1}, {"target_speed": 1.5}, {"grid": 0}, {"brightness": (0.5, 0.2)}],
)
def test_level_refuses(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"env.level: .*{next(iter(fields))}"):
        ClutterLevel(distractors=2, **fields)


@pytest.mark.parametrize("size", [16, 40])
@pytest.mark.parametrize("level", ["medium", "hard", "shift"])
def test_frames_equal_pixel_loop(level: str, size: int) -> None:
    env = small(level, num_envs=1, image_size=size)
    td = env.rollout(4)["next"][:, -1]
    rules = LEVELS[level]
    shapes = ["disk"] * rules.disks + ["square"] * rules.squares + ["ring"] * rules.rings + ["disk"] * 2
    center, radius, color = env.center[0].tolist(), env.radius[0].tolist(), env.color[0].tolist()
    objects = [(s, *c, r, rgb) for s, c, r, rgb in zip(shapes, center, radius, color, strict=True)]
    pad = (env.backdrop.shape[-1] - size) // 2
    expected = paint_naively(env.backdrop[0, :, pad:-pad, pad:-pad].numpy(), objects)
    assert abs(td["pixels"][0].numpy().astype(int) - expected).max() <= 1
    assert abs(env.backdrop[0, :, pad:-pad, pad:-pad].numpy().astype(int) - expected).max() > 100


def test_still_distractors_look_like_moving_ones_at_the_start() -> None:
    still, moving = small("easy"), small(replace(LEVELS["easy"], moving=True))
    assert still.reset()["pixels"].equal(moving.reset()["pixels"])
    assert not act(still, 0, 0)["pixels"].equal(act(moving, 0, 0)["pixels"])


@pytest.mark.parametrize("level", LEVELS)
def test_target_and_agent_are_on_top(level: str) -> None:
    env = small(level, num_envs=64)
    td = env.reset()
    core = disk_mask(td["truth", "center"], 0.11 - 1.5 / 32, 32)
    assert core.any()
    assert (td["pixels"].movedim(1, -1)[core] == torch.tensor([220, 40, 40], dtype=torch.uint8)).all()
    place(env, (0.1, 0.1), (0.1, 0.1))
    td = act(env, 0, 0)
    core = disk_mask(td["proprio"], 0.09 - 1.5 / 32, 32)
    assert (td["pixels"].movedim(1, -1)[core] == 255).all()
    assert td["truth", "mask"].equal(disk_mask(td["truth", "center"], 0.11, 32))  # though the agent covers it


def test_levels() -> None:
    table = {name: (v.disks, v.squares, v.rings, v.moving, v.target_speed) for name, v in LEVELS.items()}
    assert table == {
        "easy": (4, 0, 0, False, 0.0),
        "medium": (10, 0, 0, True, 0.0),
        "hard": (12, 0, 4, True, 0.02),
        "shift": (6, 6, 2, True, 0.0),
    }
    looks = {name: (v.grid, v.brightness) for name, v in LEVELS.items()}
    assert looks.pop("shift") == (12, (0.0, 0.8))
    assert set(looks.values()) == {(4, (0.15, 0.55))}


def test_no_distractors() -> None:
    check_env_specs(small(ClutterLevel(distractors=0)))


@pytest.mark.parametrize("level", LEVELS)
def test_drawn_episodes_follow_the_rules(level: str) -> None:
    env = ClutterEnv(level, num_envs=512, image_size=16, seed=3)
    td = env.reset()
    rules = LEVELS[level]
    k = rules.distractors
    assert ((td["proprio"] - td["truth", "center"]).norm(dim=-1) >= 0.5).all()
    assert not td["success"].any()
    assert 0.85 < td["truth", "center"].abs().max() <= 0.9
    assert 0.9 < env.center.abs().max() <= 1

    speed = env.velocity.norm(dim=-1)
    assert not speed[:, -1].any()
    assert speed[:, -2].sub(rules.target_speed).abs().max() < 1e-6
    if rules.moving:
        assert 0.02 <= speed[:, :k].min() + 1e-6 < 0.021
        assert 0.059 < speed[:, :k].max() <= 0.06 + 1e-6
        assert env.velocity[:, :k].sign().mean().abs() < 0.05  # all directions
    else:
        assert not speed[:, :k].any()

    solid, rings = slice(k - rules.rings), slice(k - rules.rings, k)
    assert 0.08 <= env.radius[:, solid].min() < 0.081
    assert 0.139 < env.radius[:, solid].max() <= 0.14
    assert env.radius[:, rings].eq(0.11).all()
    assert env.color[:, rings].eq(torch.tensor([220.0, 40, 40])).all()
    assert env.color[:, solid].min() < 2
    assert env.color[:, solid].max() > 253
    assert (env.color[:, solid, 0] - env.color[:, solid, 1:].amax(-1)).max() <= 0.2 * 255 + 1e-3
    pad = (env.backdrop.shape[-1] - 16) // 2
    texture = env.backdrop[..., pad:-pad, pad:-pad]
    if rules.moving:
        assert texture.min() >= rules.brightness[0] * 255 - 0.5
        assert texture.max() <= rules.brightness[1] * 255 + 0.5
        assert texture[0].unique().numel() > 50


def test_no_distractor_looks_red() -> None:
    # One distractor on grey: overlapping soft edges of two colours that are not red can be.
    env = small(ClutterLevel(distractors=1, brightness=(0.3, 0.3)), num_envs=256)
    td = env.reset()
    pixels = td["pixels"].int()
    near = disk_mask(td["truth", "center"], 0.11 + 3 / 32, 32)
    excess = pixels[:, 0] - pixels[:, 1:].amax(1)
    assert excess[near].max() == 180
    assert excess[~near].max() <= 0.2 * 255 + 1
