"""The rules of docs/clutter.md, TorchRL's contract, and exact restoring."""

import io

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import check_env_specs

from gaze_torchrl.envs.clutter import ClutterEnv, _reflect
from gaze_torchrl.envs.clutter_levels import LEVELS

from .clutter_support import act, place, small

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def chase(td: TensorDict) -> TensorDict:
    return td.set("action", (td["truth", "center"] - td["proprio"]) / 0.2)


# TorchRL's contract


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reward", ["dense", "sparse"])
@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_specs(level: str, objects: int, reward: str, device: str) -> None:
    env = small(level, objects=objects, reward=reward, device=device)
    check_env_specs(env)
    assert env.device.type == device
    assert env.reset()["pixels"].device.type == device


@pytest.mark.parametrize(("objects", "centers"), [(1, (2,)), (2, (2, 2))])
def test_keys_and_shapes(objects: int, centers: tuple[int, ...]) -> None:
    env = small(num_envs=3, image_size=20, objects=objects)
    td = env.rollout(2)
    expected = {
        "pixels": ((3, 2, 3, 20, 20), torch.uint8),
        "proprio": ((3, 2, 2), torch.float32),
        "success": ((3, 2, 1), torch.bool),
        ("truth", "center"): ((3, 2, *centers), torch.float32),
        ("truth", "agent"): ((3, 2, 2), torch.float32),
        ("truth", "mask"): ((3, 2, 20, 20), torch.bool),
    }
    for key, (shape, dtype) in expected.items():
        for value in (td[key], td["next"][key]):
            assert value.shape == shape
            assert value.dtype == dtype
    assert td["truth", "agent"].equal(td["proprio"])
    assert td["next", "reward"].shape == (3, 2, 1)
    assert set(env.observation_spec.keys(True, True)) == set(expected)


def test_device_defaults_to_torchs() -> None:
    assert ClutterEnv(num_envs=1).device == torch.get_default_device()


@needs_gpu
def test_moves_to_another_device() -> None:
    check_env_specs(small().to("cuda"))


def test_collector() -> None:
    collector = Collector(small(), frames_per_batch=4 * 25, total_frames=2 * 4 * 25)
    batches = list(collector)
    collector.shutdown()
    assert [b.shape for b in batches] == [(4, 25)] * 2
    done = torch.cat([b["next", "done"] for b in batches], 1).squeeze(-1)
    assert (done.nonzero()[:, 1].view(4, 2) == torch.tensor([19, 39])).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_envs": 0}, "env.num_envs must be at least 1, got 0"),
        ({"image_size": 15}, "env.image_size must be at least 16, got 15"),
        ({"horizon": 0}, "env.horizon must be at least 1, got 0"),
        ({"objects": 3}, "env.objects must be 1 or 2, got 3"),
        ({"reward": "shaped"}, "env.reward must be one of dense, sparse, got 'shaped'"),
        ({"level": "hrad"}, "env.level must be one of easy, medium, hard, shift, got 'hrad'"),
    ],
)
def test_refuses(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClutterEnv(**kwargs)


def test_nan_action_is_an_error_on_a_cpu() -> None:
    env = small()
    td = env.reset().set("action", torch.zeros(4, 2))
    td["action"][1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN in lanes \[1\]"):
        env.step(td)


def test_nan_action_is_a_nan_reward_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    env = small()
    td = env.reset().set("action", torch.ones(4, 2))
    td["action"][1, 0] = torch.nan
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # like an accelerator: no value checks
    td = env.step(td)
    assert td["next", "reward"].isnan().flatten().tolist() == [False, True, False, False]
    assert td["next", "proprio"].isfinite().all()
    assert td["next", "proprio"][1, 0] == td["proprio"][1, 0]


# Rules


def test_reflect() -> None:
    position, velocity = _reflect(torch.tensor([1.3, -1.3, 0.9, -1.0]), torch.tensor([0.5, -0.5, 0.5, -0.5]))
    assert position.tolist() == pytest.approx([0.7, -0.7, 0.9, -1.0])
    assert velocity.tolist() == [-0.5, 0.5, 0.5, -0.5]


def test_objects_move_straight_and_bounce() -> None:
    env = small("hard", horizon=200)
    env.reset()
    start, velocity = env.center[:, :-1].double().numpy(), env.velocity[:, :-1].double().numpy()
    speed = env.velocity.norm(dim=-1)
    for t in range(1, 151):
        act(env, 0, 0)
        unfolded = (start + velocity * t + 1) % 4  # a bouncing coordinate is a triangle wave of period 4
        expected = np.where(unfolded > 2, 4 - unfolded, unfolded) - 1
        np.testing.assert_allclose(env.center[:, :-1].numpy(), expected, atol=1e-4)
    assert env.velocity.norm(dim=-1).allclose(speed)
    assert not env.velocity[:, :-1].allclose(torch.from_numpy(velocity).float())


@pytest.mark.parametrize(
    ("action", "end"),
    [((0.5, -1.0), (0.1, -0.2)), ((9.0, -torch.inf), (0.2, -0.2)), ((0.0, 0.0), (0.0, 0.0))],
)
def test_action_moves_the_agent(action: tuple[float, float], end: tuple[float, float]) -> None:
    env = small()
    place(env, (0.0, 0.0), (0.5, 0.5))
    assert act(env, *action)["proprio"].tolist() == [pytest.approx(end)] * 4


def test_agent_stops_at_the_walls() -> None:
    env = small()
    place(env, (0.95, -0.9), (0.5, 0.5))
    assert act(env, 1, -1)["proprio"].tolist() == [[1, -1]] * 4
    assert act(env, -1, 1)["proprio"].tolist() == [pytest.approx([0.8, -0.8])] * 4


@pytest.mark.parametrize(("d", "success"), [(0.14, True), (0.16, False), (0.0, True), (0.8, False)])
def test_reward(d: float, success: bool) -> None:
    for reward, expected in (
        ("sparse", float(success)),
        ("dense", success + 0.3 * (1 - np.tanh(2 * d))),
    ):
        env = small(reward=reward)
        place(env, (-0.2, 0.1), (d, 0.1))
        td = act(env, 1, 0)  # to x = 0
        assert td["reward"].flatten().tolist() == pytest.approx([expected] * 4, abs=1e-6)
        assert td["success"].flatten().tolist() == [success] * 4


def test_proprio_does_not_tell_the_target() -> None:
    env = small()
    place(env, (0.0, 0.0), (0.5, 0.5))
    here = act(env, 0, 0)
    env.center[:, -2] = -0.5
    there = act(env, 0, 0)
    assert here["proprio"].equal(there["proprio"])
    assert not here["pixels"].equal(there["pixels"])
    assert not here["truth", "center"].equal(there["truth", "center"])


def test_the_target_can_be_reached_and_not_by_chance() -> None:
    for level in LEVELS:
        env = small(level, num_envs=64, image_size=16)
        assert env.rollout(20, chase)["next", "success"][:, -1].float().mean() > 0.98
        assert env.rollout(20)["next", "success"][:, -1].float().mean() < 0.2


# Episodes


def test_truncated_at_the_horizon() -> None:
    td = small(horizon=7).rollout(20, break_when_any_done=False)["next"]
    steps = torch.arange(1, 21).view(1, 20, 1).expand(4, 20, 1)
    assert td["truncated"].equal(steps % 7 == 0)
    assert td["done"].equal(td["truncated"])
    assert not td["terminated"].any()


def test_partial_reset_leaves_other_lanes_alone() -> None:
    env = small("hard", horizon=10)
    td = env.rollout(3)["next"][:, -1].exclude("reward")
    lanes = torch.tensor([False, True, False, True])
    before = {name: value.clone() for name, value in env.named_buffers()}
    fresh = env.reset(td.clone().set("_reset", lanes[:, None]))
    for name, value in env.named_buffers():
        assert value[~lanes].equal(before[name][~lanes]), name
        assert (value[lanes] != before[name][lanes]).flatten(1).any(1).all(), name
    assert (fresh[~lanes] == td[~lanes]).all()
    assert (fresh["proprio"][lanes] != td["proprio"][lanes]).any(-1).all()
    done = torch.stack([act(env, 0, 0)["done"][:, 0] for _ in range(10)])
    assert (done.int().argmax(0) + 1).tolist() == [7, 10, 7, 10]


def test_what_was_handed_out_does_not_change() -> None:
    env = small()
    first = env.reset()
    copy = first.clone()
    env.load_state_dict(small(seed=5).state_dict())  # writes into the state's tensors
    assert (first == copy).all()
    second = act(env, 1, 1)
    copy = second.clone()
    act(env, 1, 1)
    assert (second == copy).all()


# Randomness and restoring


def test_seed_decides_the_episodes() -> None:
    def episode(env: ClutterEnv) -> TensorDict:
        torch.manual_seed(0)  # of the random policy
        return env.rollout(25, break_when_any_done=False)

    by_set_seed = small(seed=4)
    by_set_seed.set_seed(7)
    one = episode(small(seed=7))
    assert (one == episode(by_set_seed)).all()
    assert not one["pixels"].equal(episode(small(seed=8))["pixels"])
    assert not episode(small(seed=None))["pixels"].equal(episode(small(seed=None))["pixels"])


def test_the_global_generator_is_not_used() -> None:
    before = torch.get_rng_state()
    env = small()
    env.reset()
    act(env, 0, 0)
    assert torch.get_rng_state().equal(before)


def test_the_policy_has_no_say_in_the_next_episode() -> None:
    lazy, busy = small(), small()
    for env, x in ((lazy, 0.0), (busy, 1.0)):
        env.reset()
        for _ in range(5):
            act(env, x, x)
    assert not lazy.center.equal(busy.center)
    assert (lazy.reset() == busy.reset()).all()


def test_states_kept_in_memory_stay_what_they_were() -> None:
    """To go back and forth between two moments, of two episodes."""
    env = small("hard")
    env.rollout(7)
    before = env.state_dict()
    env.reset()
    env.rollout(3)
    after, seen = env.state_dict(), env._observe()
    env.load_state_dict(before)
    assert not env._observe()["pixels"].equal(seen["pixels"])
    env.load_state_dict(after)
    assert env._observe()["pixels"].equal(seen["pixels"])
    assert env.elapsed.eq(3).all()


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("level", LEVELS)
def test_state_dict_continues_bit_for_bit(level: str, objects: int) -> None:
    def future(env: ClutterEnv) -> TensorDict:
        actions = torch.linspace(-1, 1, 4 * 2 * 45).view(45, 4, 2)
        td, steps = env.rand_action(TensorDict(batch_size=[4])), []
        for action in actions:
            step, td = env.step_and_maybe_reset(td.set("action", action))
            steps.append(step["next"])
        return torch.stack(steps)

    env = small(level, objects=objects)
    env.rollout(7)
    file = io.BytesIO()
    torch.save(env.state_dict(), file)
    expected = future(env)

    file.seek(0)
    other = small(level, objects=objects, seed=99)
    other.rollout(3)
    other.load_state_dict(torch.load(file, weights_only=True))
    actual = future(other)
    assert expected["done"].any(1).sum() == 2
    for key in expected.keys(True, True):
        assert actual[key].equal(expected[key]), key
