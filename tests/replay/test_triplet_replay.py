"""The transform on real TorchRL buffers, fed by real collectors."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ReplayBuffer,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN
from gaze_torchrl.replay import QuantileMiner, ReturnToGo, TripletReplay, ValueTarget


def data(steps=64, seed=0, lanes=None):
    """Finished one-step episodes whose reward is drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    done = torch.ones(steps, 1, dtype=torch.bool)
    td = TensorDict(
        {
            "features": torch.rand(steps, 4, 8, 8, generator=generator),
            "action": torch.zeros(steps, 2),
            "collector": {"traj_ids": torch.arange(steps) + 10_000 * seed},
            "next": {"reward": torch.rand(steps, 1, generator=generator), "done": done, "terminated": done},
        },
        [steps],
    )
    return td if lanes is None else td.reshape(lanes, -1)


def replay(labels=None, buffer_class=TensorDictReplayBuffer, storage=None, batch_size=16, **options):
    options = {"capacity": 256, "min_steps": 2, "num_triplets": 8, **options}
    buffer = buffer_class(storage=storage or LazyTensorStorage(256), batch_size=batch_size)
    transform = TripletReplay(labels or ReturnToGo(0.9), QuantileMiner(), **options)
    buffer.append_transform(transform)
    return buffer, transform


@pytest.mark.parametrize("buffer_class", [TensorDictReplayBuffer, ReplayBuffer])
def test_attaches_the_features_of_mined_steps(buffer_class):
    buffer, transform = replay(buffer_class=buffer_class)
    source = data()
    buffer.extend(source)
    sample = buffer.sample()
    triplets = sample["triplets"]
    assert triplets.batch_size == sample.batch_size
    assert triplets["valid"].tolist() == [True] * 8 + [False] * 8
    label, _ = transform.labelled()
    low, high = torch.quantile(label, torch.tensor([0.3, 0.7]))
    reward = source["next", "reward"].squeeze(-1)

    def look(features):
        return tuple(features.half().flatten().tolist())

    by_look = {look(source["features"][i]): reward[i].item() for i in range(64)}
    for row in range(8):
        outcomes = [by_look[look(triplets[name][row])] for name in ("anchor", "positive", "negative")]
        high_class = [outcome > high for outcome in outcomes]
        assert all(outcome > high or outcome < low for outcome in outcomes)
        assert high_class[0] == high_class[1] != high_class[2]
    assert (triplets["anchor"][8:] == 0).all()


def test_features_stay_out_of_the_buffer():
    buffer, transform = replay()
    source = data()
    buffer.extend(source)
    assert "features" not in buffer[:]
    assert "features" in source
    assert transform.bank.rows["features"].dtype == torch.float16


@pytest.mark.parametrize("lanes", [4, 16])
def test_lanes_by_time_equal_flattened(lanes):
    first, second = replay()[1], replay()[1]
    first.inv(data(lanes=lanes))
    second.inv(data())
    assert torch.equal(first.bank.rows["reward"], second.bank.rows["reward"])
    assert torch.equal(first.mined, second.mined)


def test_two_dimensional_buffer():
    buffer, transform = replay(storage=LazyTensorStorage(256, ndim=2))
    buffer.extend(data(lanes=4))
    assert len(transform.bank) == 64
    assert buffer.sample()["triplets", "valid"].any()


def test_memmap_storage(tmp_path):
    buffer, _ = replay(storage=LazyMemmapStorage(256, scratch_dir=str(tmp_path)))
    buffer.extend(data())
    assert buffer.sample()["triplets", "valid"].any()


def test_prefetching_threads():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), batch_size=16, prefetch=2)
    buffer.append_transform(TripletReplay(ReturnToGo(0.9), QuantileMiner(), capacity=64, min_steps=2))
    buffer.extend(data())
    assert all(buffer.sample()["triplets", "valid"].any() for _ in range(5))


def test_the_same_rollout_again_is_added_once():
    """TorchRL's PPO tutorial extends the same data in every epoch."""
    buffer, transform = replay()
    for epoch in range(3):
        # It estimates the values anew each time.
        buffer.extend(data().set(("next", "state_value"), torch.full((64, 1), float(epoch))))
    assert len(transform.bank) == 64
    buffer.extend(data(seed=1).set(("next", "state_value"), torch.zeros(64, 1)))
    assert len(transform.bank) == 128


def test_huge_features_stay_finite():
    source = data()
    source["features"].mul_(1e6)
    buffer, _ = replay()
    buffer.extend(source)
    assert buffer.sample()["triplets", "anchor"].isfinite().all()


def test_labels_are_right_across_batches_of_a_real_collector():
    """Lanes whose episodes cross the borders of the batches: every label equals the sum of what was then collected."""
    env = ClutterEnv("easy", num_envs=3, image_size=16, horizon=7)
    env.set_seed(0)
    encoder = TensorDictModule(FineCNN((2, 2)), ["pixels"], ["features"])
    act = TensorDictModule(nn.LazyLinear(2), ["proprio"], ["action"])
    collector = Collector(env, TensorDictSequential(encoder, act), frames_per_batch=15, total_frames=90)
    buffer, transform = replay(ReturnToGo(0.8), capacity=1000)
    rewards: dict[int, list[float]] = {}
    ended, place = set(), []
    for batch in collector:
        buffer.extend(batch)
        for lane in batch:
            for step in lane:
                trajectory = int(step["collector", "traj_ids"])
                rewards.setdefault(trajectory, []).append(step["next", "reward"].item())
                place.append((trajectory, len(rewards[trajectory]) - 1))
                if step["next", "done"]:
                    ended.add(trajectory)
    collector.shutdown()
    label, known = transform.labelled()
    assert len(label) == len(place) == 90
    assert known.any()
    assert not known.all()
    for row, (trajectory, t) in enumerate(place):
        assert bool(known[row]) == (trajectory in ended)
        if known[row]:
            onward = sum(0.8**i * r for i, r in enumerate(rewards[trajectory][t:]))
            assert label[row].item() == pytest.approx(onward, rel=1e-4)


def test_sampler_without_replacement_gives_whole_epochs():
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(64), sampler=SamplerWithoutReplacement(), batch_size=16)
    buffer.append_transform(TripletReplay(ReturnToGo(0.9), QuantileMiner(), capacity=64, min_steps=2))
    buffer.extend(data())
    assert sum(1 for _ in buffer) == 4


def test_before_min_steps_and_with_equal_returns_no_triplet_is_valid():
    buffer, _ = replay(min_steps=100)
    buffer.extend(data())
    assert not buffer.sample()["triplets", "valid"].any()
    buffer, _ = replay()
    source = data()
    source["next", "reward"].fill_(1.0)
    buffer.extend(source)
    sample = buffer.sample()
    assert not sample["triplets", "valid"].any()
    assert (sample["triplets", "anchor"] == 0).all()


def test_the_seed_decides():
    def draw(seed):
        torch.manual_seed(0)
        buffer, _ = replay(seed=seed)
        buffer.extend(data())
        return buffer.sample()["triplets", "anchor"]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_state_dict_goes_on_exactly():
    buffer, _ = replay()
    buffer.extend(data())
    other, _ = replay(seed=5)
    other.load_state_dict(buffer.state_dict())
    for each in (buffer, other):
        each.extend(data(seed=1))
    torch.manual_seed(0)
    first = buffer.sample()
    torch.manual_seed(0)
    second = other.sample()
    assert torch.equal(first["triplets", "anchor"], second["triplets", "anchor"])
    assert torch.equal(first["next", "reward"], second["next", "reward"])


def test_other_keys():
    renamed = data().rename_key_("features", ("agent", "looks")).rename_key_(("collector", "traj_ids"), "episode")
    buffer, transform = replay(keys={"features": ("agent", "looks"), "trajectory": "episode"})
    buffer.extend(renamed)
    assert torch.equal(transform.bank.rows["trajectory"], torch.arange(64))
    assert ("agent", "looks") not in buffer[:].keys(True)


def test_nan_reward_is_refused():
    source = data()
    source["next", "reward"][3] = float("nan")
    buffer, transform = replay()
    with pytest.raises(ValueError, match="reward is not finite"):
        buffer.extend(source)
    assert len(transform.bank) == 0


def test_bank_smaller_than_a_batch_is_refused():
    buffer, _ = replay(capacity=32)
    with pytest.raises(ValueError, match=r"64 steps came at once but the bank holds 32.*miner\.capacity"):
        buffer.extend(data())


def test_sampling_before_anything_was_seen_says_what_to_do():
    _, transform = replay()
    with pytest.raises(RuntimeError, match="before the first extend"):
        transform(data())


@pytest.mark.parametrize("key", ["features", ("collector", "traj_ids"), ("next", "reward"), ("next", "done")])
def test_missing_key_says_who_writes_it(key):
    buffer, _ = replay()
    with pytest.raises(KeyError, match="found no"):
        buffer.extend(data().exclude(key))


def test_value_target_reads_what_gae_wrote():
    source = data().set(("next", "state_value"), torch.full((64, 1), 5.0))
    source["next", "done"].fill_(False)
    source["next", "terminated"].fill_(False)
    buffer, transform = replay(ValueTarget(0.5, 0.9))
    buffer.extend(source)
    label, known = transform.labelled()
    assert known.all()
    torch.testing.assert_close(label, source["next", "reward"].squeeze(-1) + 2.5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_triplets": 0}, "num_triplets must be at least 1"),
        ({"min_steps": 300}, r"miner\.min_steps = 300 exceeds miner\.capacity = 256"),
        ({"keys": {"feature": "x"}}, "Unknown keys"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        replay(**options)
