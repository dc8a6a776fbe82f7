"""The transform on real TorchRL buffers, fed by real collectors."""

import copy

import pytest
import torch
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
from gaze_torchrl.replay import (
    PooledKeys,
    ProjectedKeys,
    QuantileMiner,
    ReturnToGo,
    RunningQuantileNormalize,
    TripletReplay,
)
from tests.replay.support import MEMBERS, data, replay


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
        outcomes = [by_look[look(triplets[name, "features"][row])] for name in MEMBERS]
        high_class = [outcome > high for outcome in outcomes]
        assert all(outcome > high or outcome < low for outcome in outcomes)
        assert high_class[0] == high_class[1] != high_class[2]
        assert outcomes == [triplets[name, "label"][row].item() for name in MEMBERS]
    for name in MEMBERS:
        assert triplets[name].batch_size == sample.batch_size
        assert sorted(triplets[name].keys()) == ["features", "label"]
        assert triplets[name, "features"].dtype == torch.float16
        assert (triplets[name, "features"][8:] == 0).all()
        assert (triplets[name, "label"][8:] == 0).all()


def test_features_stay_out_of_the_buffer():
    buffer, transform = replay()
    source = data()
    buffer.extend(source)
    assert "features" not in buffer[:]
    assert "features" in source
    assert torch.equal(transform.bank.rows["members", "features"].movedim(-1, -3), source["features"].half())


@pytest.mark.parametrize("keys", [PooledKeys(), ProjectedKeys(4, (8, 8), dim=16)], ids=["pooled", "projected"])
def test_mining_is_exact_under_autocast(keys):
    first, second = replay(keys=keys)[1], replay(keys=keys)[1]
    first.inv(data())
    with torch.autocast("cpu", torch.bfloat16):
        second.inv(data())
    assert torch.equal(first.bank.rows["key"], second.bank.rows["key"])
    assert (first.mined == second.mined).all()


@pytest.mark.parametrize("lanes", [4, 16])
def test_lanes_by_time_equal_flattened(lanes):
    first, second = replay()[1], replay()[1]
    first.inv(data(lanes=lanes))
    second.inv(data())
    assert torch.equal(first.bank.rows["reward"], second.bank.rows["reward"])
    assert (first.mined == second.mined).all()


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


def test_nothing_is_lost_where_nothing_moves():
    """Step by step, all look the same: each counts, or the labels would be of another episode."""
    steps = data(4)
    steps["features"].fill_(1.0)
    steps["collector", "traj_ids"].zero_()
    steps["next", "reward"] = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    ends = torch.tensor([[False], [False], [False], [True]])
    steps["next", "done"], steps["next", "terminated"] = ends, ends
    buffer, transform = replay(ReturnToGo(0.5))
    for step in steps.split(1):
        buffer.extend(step)
    label, known = transform.labelled()
    assert label.tolist() == [0.125, 0.25, 0.5, 1.0]
    assert known.all()


def test_the_same_rollout_again_is_added_once():
    """TorchRL's PPO tutorial extends the same data in every epoch."""
    buffer, transform = replay(skip_repeats=True)
    for epoch in range(3):
        # It estimates the values anew each time.
        buffer.extend(data().set(("next", "state_value"), torch.full((64, 1), float(epoch))))
    assert len(transform.bank) == 64
    buffer.extend(data(seed=1).set(("next", "state_value"), torch.zeros(64, 1)))
    assert len(transform.bank) == 128


def test_repeats_are_added_unless_they_are_to_be_skipped():
    buffer, transform = replay()
    buffer.extend(data())
    with pytest.warns(UserWarning, match="same steps twice in a row.*skip_repeats=True"):
        buffer.extend(data())
    assert len(transform.bank) == 128


@pytest.mark.parametrize(("skip", "kept"), [(False, 2), (True, 1)])
def test_one_step_like_the_last_is_skipped_if_asked_for_and_no_reason_to_warn(skip, kept, recwarn):
    buffer, transform = replay(skip_repeats=skip)
    for _ in range(2):
        buffer.extend(data()[:1])
    assert len(transform.bank) == kept
    assert not recwarn.list


def test_huge_features_stay_finite():
    source = data()
    source["features"].mul_(1e6)
    buffer, _ = replay()
    buffer.extend(source)
    assert buffer.sample()["triplets", "anchor", "features"].isfinite().all()


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
    assert sample["triplets", "anchor", "features"].shape == (16, 4, 8, 8)


def test_the_seed_decides():
    def draw(seed):
        torch.manual_seed(0)
        buffer, _ = replay(seed=seed)
        buffer.extend(data())
        return buffer.sample()["triplets", "anchor", "features"]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_state_dict_goes_on_exactly():
    buffer, transform = replay(normalize=RunningQuantileNormalize(), mine_every=150)
    for seed in (0, 1, 2):  # mined after the third
        buffer.extend(data(seed=seed))
    other, twin = replay(normalize=RunningQuantileNormalize(), mine_every=150, seed=5)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for seed in (3, 4, 5):
        for each in (buffer, other):
            each.extend(data(seed=seed))
        torch.manual_seed(seed)
        first = buffer.sample()
        torch.manual_seed(seed)
        second = other.sample()
        assert (first == second).all()
        assert first["triplets", "valid"].any()
        assert transform.statistics() == twin.statistics()
    assert torch.equal(transform.normalize.bounds, twin.normalize.bounds)


def test_saved_before_anything_was_seen():
    buffer, _ = replay()
    other, _ = replay(seed=5)
    other.load_state_dict(copy.deepcopy(buffer.state_dict()))
    for each in (buffer, other):
        each.extend(data())
    assert other.sample()["triplets", "valid"].any()


def test_other_columns():
    looks = ("agent", "looks")
    renamed = data().rename_key_("features", looks).rename_key_(("collector", "traj_ids"), "episode")
    buffer, transform = replay(columns={"features": looks, "trajectory": "episode"}, members=[looks])
    buffer.extend(renamed)
    assert torch.equal(transform.bank.rows["trajectory"], torch.arange(64))
    assert looks not in buffer[:].keys(True)
    assert buffer.sample()["triplets"]["anchor"][looks].dtype == torch.float16


@pytest.mark.parametrize("lanes", [None, 4])
def test_members_of_any_kind(lanes):
    source = data(lanes=lanes)
    source["pixels"] = torch.randint(256, (*source.shape, 3, 6, 6), dtype=torch.uint8)
    source["agent", "proprio"] = torch.randn(*source.shape, 5)
    source["tick"] = torch.arange(64).view(source.shape)
    flat = source.reshape(-1)
    buffer, transform = replay(members=["pixels", ("agent", "proprio"), "tick"])
    buffer.extend(source.reshape(-1))
    triplets = buffer.sample()["triplets"]
    label, _ = transform.labelled()
    assert triplets["valid"].sum() == 8
    for name in MEMBERS:
        member = triplets[name][:8]
        assert set(member.keys(True, True)) == {"pixels", ("agent", "proprio"), "tick", "label"}
        assert torch.equal(member["pixels"], flat["pixels"][member["tick"]])
        assert torch.equal(member["agent", "proprio"], flat["agent", "proprio"][member["tick"]])
        assert torch.equal(member["label"], label[member["tick"]])
        assert all((value[8:] == 0).all() for value in triplets[name].values(True, True))
    assert "pixels" in buffer[:]
    assert "features" not in buffer[:]
    assert "features" not in transform.bank.rows["members"]


def test_missing_member_is_named():
    buffer, _ = replay(members=["features", "proprio"])
    with pytest.raises(KeyError, match=r"no 'proprio' in the data, one of its members"):
        buffer.extend(data())


def test_nan_reward_is_refused():
    source = data()
    source["next", "reward"][3] = float("nan")
    buffer, transform = replay()
    with pytest.raises(ValueError, match="reward is not finite"):
        buffer.extend(source)
    assert len(transform.bank) == 0


def test_bank_smaller_than_a_batch_is_refused():
    buffer, _ = replay(capacity=32)
    with pytest.raises(ValueError, match=r"64 steps came at once but the bank holds 32.*bank\.capacity"):
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


def test_memory_of_a_full_sized_step():
    """32x16x16 features in half precision and a pooled key: 18.5 kB, so 151 MB for 8192 steps."""
    source = data(steps=8)
    source["features"] = torch.rand(8, 32, 16, 16)
    buffer, transform = replay(capacity=8)
    buffer.extend(source)
    numbers = 4 * 8 + 4 + 2  # trajectory, step, episode and written; reward; done and terminated
    assert transform.bank.bytes_per_step == 32 * 16 * 16 * 2 + 32 * 16 * 4 + numbers


def test_single_steps_can_be_added():
    buffer, transform = replay()
    for step in data(8):
        buffer.add(step)
    assert len(transform.bank) == 8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_triplets": 0}, "num_triplets must be at least 1"),
        ({"min_steps": 300}, r"bank\.min_steps = 300 exceeds bank\.capacity = 256"),
        ({"mine_every": 0}, r"bank\.mine_every must be at least 1, got 0"),
        ({"columns": {"feature": "x"}}, "Unknown columns"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        replay(**options)
