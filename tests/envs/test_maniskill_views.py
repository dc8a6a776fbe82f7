"""What a step shows: several cameras, depth, skipped and stacked frames, each against what it is made from."""

import pytest
import torch
from torchrl.envs import CatFrames, TransformedEnv, check_env_specs

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from tests.envs.maniskill_support import skip_without_maniskill

skip_without_maniskill()
pytestmark = pytest.mark.maniskill

SMALL = {"num_envs": 2, "image_size": 32}


def rollout(env, steps, actions=None):
    """A rollout from seed 0, of given or random actions [2, steps, A], over several episodes."""
    env.set_seed(0)
    torch.manual_seed(0)
    queue = iter(actions.unbind(1)) if actions is not None else None

    def policy(td):
        return td.set("action", env.action_spec.rand() if queue is None else next(queue))

    return env.rollout(steps, policy, break_when_any_done=False)


def test_cameras_stand_side_by_side():
    arguments = {**SMALL, "task": "StackCube-v1"}
    both, base, hand = (
        rollout(ManiSkillEnv(**arguments, cameras=cameras), 3)
        for cameras in (["base_camera", "hand_camera"], ["base_camera"], ["hand_camera"])
    )
    assert both["pixels"].shape == (2, 3, 3, 32, 64)
    assert (base["pixels"] != hand["pixels"]).any()
    for key in ("pixels", ("truth", "mask")):
        assert torch.equal(both["next"][key], torch.cat([base["next"][key], hand["next"][key]], -1)), key
    # From the whole picture's coordinates back to those of its left half.
    center = both["truth", "center"] * torch.tensor([2.0, 1.0]) + torch.tensor([1.0, 0.0])
    torch.testing.assert_close(center, base["truth", "center"])
    assert torch.equal(both["proprio"], base["proprio"])


def test_depth_is_maniskills():
    env = ManiSkillEnv(**SMALL, depth=1.5)
    seen = rollout(env, 3)
    check_env_specs(env)
    assert seen["pixels"].shape == (2, 3, 4, 32, 32)
    assert torch.equal(seen["pixels"][:, :, 1:], rollout(ManiSkillEnv(**SMALL), 3)["pixels"])
    scene = env.simulation.scenes[0]
    # Its other shader tells the depth in a texture of its own: a float, not millimetres.
    raw = type(scene)(
        obs_mode="rgb+depth",
        control_mode="pd_joint_delta_pos",
        sensor_configs={"width": 32, "height": 32, "shader_pack": "default"},
        sim_backend="physx_cpu",
        render_backend="cpu",
    )
    env.set_seed(0)
    first = env.reset()
    depth = raw.reset(seed=int(scene._episode_seed[0]))[0]["sensor_data"]["base_camera"]["depth"][0, ..., 0]
    metres = torch.where(depth > 0, depth.float() / 1000, 1.5)
    near = metres < 1.5
    found = first["pixels"][0, 0].float() / 255 * 1.5
    assert 0.2 < near.float().mean() < 1
    assert (found[near] - metres[near]).abs().median() < 0.005
    assert (first["pixels"][0, 0][~near] == 255).float().mean() > 0.98  # an edge may fall on either side


def test_no_depth_beyond_what_is_drawn():
    """Where nothing stands, ManiSkill says 0: it must not seem near."""
    env = ManiSkillEnv("MS-CartpoleBalance-v1", num_envs=1, image_size=32, depth=1000.0)
    scene = env.simulation.scenes[0]
    info = scene.get_info()
    seen = scene.get_obs(info)
    camera = seen["sensor_data"]["base_camera"]
    camera["depth"] = torch.zeros_like(camera["depth"])
    assert (env.simulation._read([env.simulation._seen(scene, seen, info)])["pixels"][:, 0] == 255).all()
    env.close()


def test_skipped_frames_are_maniskills_steps():
    skips = ManiSkillEnv(**SMALL, frame_skip=3, horizon=5)  # rounded up to two skips
    every = ManiSkillEnv(**SMALL, horizon=6)
    few = rollout(skips, 4)
    many = rollout(every, 12, few["action"].repeat_interleave(3, 1))
    for key in ("pixels", "proprio", "success"):
        assert torch.equal(few["next", key], many["next", key][:, 2::3]), key
    assert torch.equal(few["pixels"], many["pixels"][:, ::3])
    reward = many["next", "reward"].unflatten(1, (-1, 3)).sum(2)
    torch.testing.assert_close(few["next", "reward"], reward)
    assert few["next", "truncated"][0, :, 0].tolist() == [False, True, False, True]


def test_skipped_frames_are_not_drawn(monkeypatch):
    env = ManiSkillEnv(num_envs=1, image_size=32, frame_skip=4)
    camera, drawn = env.simulation.scenes[0]._sensors["base_camera"], []
    capture = camera.capture
    monkeypatch.setattr(camera, "capture", lambda: drawn.append(1) or capture())
    env.rollout(3)
    assert len(drawn) == 1 + 3, "one at the reset, one per step"


@pytest.mark.parametrize("ends", [True, False])
def test_success_within_a_skip_counts_where_it_ends_the_episode(ends):
    env = ManiSkillEnv(num_envs=1, image_size=16, frame_skip=2, terminate_on_success=ends)
    td, scene = env.reset(), env.simulation.scenes[0]
    evaluate, calls = scene.evaluate, []

    def once():
        calls.append(1)
        return {**evaluate(), "success": torch.tensor([len(calls) == 1])}

    scene.evaluate = once
    result = env.step(td.set("action", torch.zeros(env.action_spec.shape)))["next"]
    assert len(calls) == 2, "the rest of the skip is acted out"
    assert result["terminated"].item() == ends
    assert result["success"].item() == ends


def test_stacked_frames_are_torchrls():
    stacked = ManiSkillEnv(**SMALL, horizon=3, frame_stack=3)
    expected = TransformedEnv(ManiSkillEnv(**SMALL, horizon=3), CatFrames(3, -3, in_keys=["pixels"]))
    check_env_specs(stacked)
    found, theirs = rollout(stacked, 8), rollout(expected, 8)
    assert found["pixels"].shape == (2, 8, 9, 32, 32)
    for key in ("pixels", ("next", "pixels"), "proprio", ("next", "reward")):
        assert torch.equal(found[key], theirs[key]), key


def test_stacked_frames_of_a_partial_reset():
    env = ManiSkillEnv(**SMALL, frame_stack=2)
    td = rollout(env, 2)[:, -1]["next"]
    fresh = env.reset(td.clone().set("_reset", torch.tensor([[False], [True]])))
    assert torch.equal(fresh["pixels"][0], td["pixels"][0])
    assert torch.equal(fresh["pixels"][1, :3], fresh["pixels"][1, 3:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cameras": []}, "env.cameras must be at least 1, got 0"),
        (
            {"cameras": "base_camera"},
            r"env.cameras must be a list of names, such as \[base_camera\], got 'base_camera'",
        ),
        ({"depth": 0}, "env.depth must be positive, got 0"),
        ({"frame_skip": 0}, "env.frame_skip must be at least 1"),
        ({"frame_stack": 0}, "env.frame_stack must be at least 1"),
        ({"simulation": "tpu"}, "env.simulation must be 'cpu' or 'gpu', got 'tpu'"),
    ],
)
def test_errors_name_the_config_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillEnv(**{**SMALL, **arguments})
