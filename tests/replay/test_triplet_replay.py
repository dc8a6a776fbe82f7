"""The transform on real TorchRL buffers, fed by real collectors."""

import copy

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
from gaze_torchrl.replay import (
    AnchorRelativeMiner,
    EpisodeReturn,
    FullKeys,
    ProjectedKeys,
    ProprioKeys,
    QuantileMiner,
    RandomMiner,
    RankNormalize,
    ReturnToGo,
    RunningQuantileNormalize,
    Success,
    TripletReplay,
    ValueTarget,
)


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


MEMBERS = ("anchor", "positive", "negative")


def replay(labels=None, miner=None, buffer_class=TensorDictReplayBuffer, storage=None, batch_size=16, **options):
    options = {"capacity": 256, "min_steps": 2, "num_triplets": 8, **options}
    buffer = buffer_class(storage=storage or LazyTensorStorage(256), batch_size=batch_size)
    transform = TripletReplay(labels or ReturnToGo(0.9), miner or QuantileMiner(), **options)
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
    for _ in range(2):
        buffer.extend(data())
    assert len(transform.bank) == 128


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


def test_value_target_reads_what_gae_wrote():
    source = data().set(("next", "state_value"), torch.full((64, 1), 5.0))
    source["next", "done"].fill_(False)
    source["next", "terminated"].fill_(False)
    buffer, transform = replay(ValueTarget(0.5, 0.9))
    buffer.extend(source)
    label, known = transform.labelled()
    assert known.all()
    torch.testing.assert_close(label, source["next", "reward"].squeeze(-1) + 2.5)


def test_success_labels_from_the_column():
    source = data()
    source["next", "success"] = torch.rand(64, 1) < 0.3
    buffer, transform = replay(Success())
    buffer.extend(source)
    label, known = transform.labelled()
    assert known.all()
    assert torch.equal(label, source["next", "success"].squeeze(-1).float())
    with pytest.raises(KeyError, match=r"labels=success needs \('next', 'success'\)"):
        replay(Success())[0].extend(data())


def stream(steps, length, lanes=2, first=0):
    """Flat steps, lane by lane, of episodes of one length whose looks and rewards tell lane and time."""
    clock = torch.arange(first, first + steps)
    lane = torch.arange(lanes)[:, None]
    done = ((clock + 1) % length == 0).expand(lanes, steps)
    number = (1000 * lane + clock).float()
    td = TensorDict(
        {
            "features": torch.stack([number.cos(), number.sin()], -1)[..., None, None].expand(-1, -1, -1, 4, 4),
            "collector": {"traj_ids": 1000 * lane + clock // length},
            "time": (1000 * lane + clock),
            "next": {"reward": number[..., None], "done": done[..., None], "terminated": done[..., None]},
        },
        [lanes, steps],
    )
    return td.reshape(-1)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("mine_every", [1, 7, 16, 40])
def test_mines_when_enough_new_steps_have_come(steps, mine_every):
    minings = []

    class Counting(RandomMiner):
        def __call__(self, *arguments):
            minings.append(transform.bank.written)
            return super().__call__(*arguments)

    _, transform = replay(EpisodeReturn(), Counting(), capacity=64, min_steps=20, mine_every=mine_every)
    expected, last = [], 0
    for batch in range(20):
        transform.inv(stream(steps, length=4, first=steps * batch))
        written = 2 * steps * (batch + 1)
        if min(written, 64) >= 20 and written - last >= mine_every:
            expected.append(written)
            last = written
    assert minings == expected != []


def test_no_triplet_is_served_of_a_step_that_was_overwritten():
    """The ring turns several times between two minings: what is served is what was mined, or nothing."""
    _, transform = replay(
        EpisodeReturn(), RandomMiner(40), capacity=40, mine_every=100, members=["time"], num_triplets=16
    )
    value = {}
    served = []
    for batch in range(40):
        rows = stream(4, length=4, first=4 * batch)
        transform.inv(rows)
        for lane in (0, 1):
            value.update(
                {t: sum(range(t - t % 4, t - t % 4 + 4)) for t in range(1000 * lane, 1000 * lane + 4 * batch + 4)}
            )
        triplets = transform(TensorDict({}, [16]))["triplets"]
        oldest = 4 * (batch + 1) - 20
        for row in triplets[triplets["valid"]].unbind(0):
            for name in MEMBERS:
                time = int(row[name, "time"])
                assert row[name, "label"] == value[time]
                assert time % 1000 >= oldest
        served.append(int(triplets["valid"].sum()))
    assert {0, 16} == set(served)
    assert served.count(16) > 5


def test_an_episode_whose_beginning_is_overwritten_has_no_known_return():
    _, transform = replay(EpisodeReturn(), capacity=20)
    for batch in range(10):
        transform.inv(stream(3, length=8, lanes=1, first=3 * batch))
        rows = transform.bank.rows
        label, known = transform.labelled()
        now = 3 * (batch + 1)
        for t, is_known, value in zip(rows["reward"].tolist(), known.tolist(), label.tolist(), strict=True):
            begin = int(t) // 8 * 8
            assert is_known == (begin + 8 <= now and begin >= now - 20)
            if is_known:
                assert value == sum(range(begin, begin + 8))
        assert torch.equal(rows["step"].float(), rows["reward"] % 8)


def test_normalised_labels_reach_the_miner_and_the_sample():
    """A margin of ranks: the same triplets whatever the rewards' scale."""
    mined = []
    for scale in (1.0, 1000.0):
        source = data()
        source["next", "reward"].mul_(scale)
        buffer, transform = replay(miner=AnchorRelativeMiner(margin=0.2), normalize=RankNormalize())
        buffer.extend(source)
        triplets = buffer.sample()["triplets"]
        label = torch.stack([triplets[name, "label"] for name in MEMBERS])[:, triplets["valid"]]
        assert (label[1] - label[0] >= 0.2).all()
        assert (label[0] - label[2] >= 0.2).all()
        assert 0 < label.min() < label.max() < 1
        mined.append(transform.mined)
    assert torch.equal(mined[0]["number"], mined[1]["number"])
    torch.testing.assert_close(mined[0]["label"], mined[1]["label"])


@pytest.mark.parametrize("keys", [None, FullKeys(), ProjectedKeys(4, (8, 8), dim=16)])
def test_keys_decide_what_is_compared(keys):
    buffer, transform = replay(keys=keys)
    source = data()
    buffer.extend(source)
    expected = transform.keys(source["features"])
    assert torch.equal(transform.bank.rows["key"], expected)
    assert expected.shape[1] == (64 if keys is None else 256 if isinstance(keys, FullKeys) else 16)


def test_steps_can_be_compared_by_what_the_agent_feels():
    buffer, transform = replay(keys=ProprioKeys(3), columns={"proprio": ("agent", "joints")})
    source = data(lanes=4).set(("agent", "joints"), torch.rand(4, 16, 3))
    buffer.extend(source)
    assert torch.equal(transform.bank.rows["key"], source["agent", "joints"].flatten(0, 1))
    with pytest.raises(KeyError, match=r"found no \('agent', 'joints'\) in the data: ProprioKeys compare it"):
        buffer.extend(data())


def test_statistics_of_the_last_mining():
    buffer, transform = replay()
    assert transform.statistics() == {"mined_triplets": 0, "known_labels": 0, "label_std": 0}
    source = data()
    source["next", "done"][:16] = False
    source["next", "terminated"][:16] = False
    buffer.extend(source)
    facts = {name: value.item() for name, value in transform.statistics().items()}
    reward = source["next", "reward"][16:, 0]
    assert facts["mined_triplets"] == len(transform.mined) > 0
    assert facts["known_labels"] == 0.75
    assert facts["label_std"] == pytest.approx(reward.std(correction=0).item(), rel=1e-5)
    source["next", "done"].fill_(False)
    other, transform = replay()
    other.extend(source)
    assert transform.statistics() == {"mined_triplets": 0, "known_labels": 0, "label_std": 0}


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
