"""Frames stored once come back to the bit, across episode ends, rollout borders, n steps and the ring's wrap-around."""

import pickle

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from gaze_torchrl.replay import FrameReplay, NStep


def rollouts(count, lanes=3, time=7, done_rate=0.2, seed=0):
    """Consecutive collector batches: after done the next root frame is a fresh one; ``id`` counts the steps."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randint(0, 256, (lanes, 3, 5, 6), dtype=torch.uint8, generator=generator)  # noqa: E731
    frame, step = draw(), 0
    for _ in range(count):
        steps = []
        for _ in range(time):
            done = torch.rand(lanes, 1, generator=generator) < done_rate
            after = draw()
            reward = torch.rand(lanes, 1, generator=generator)
            steps.append(
                TensorDict(
                    {
                        "pixels": frame,
                        "id": torch.arange(lanes) + step,
                        "next": {"pixels": after, "done": done, "terminated": done, "reward": reward},
                    },
                    [lanes],
                )
            )
            step += lanes
            frame = torch.where(done[:, :, None, None], draw(), after)
        yield torch.stack(steps, 1)


def buffer(capacity, *transforms, **options):
    made = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=64)
    for transform in (FrameReplay(capacity, **options), *transforms):
        made.append_transform(transform)
    return made


def check_against(batches, replay, samples=20):
    kept = torch.cat([batch.reshape(-1) for batch in batches])
    rows = {int(row["id"]): row for row in kept}
    for _ in range(samples):
        for row in replay.sample():
            original = rows[int(row["id"])]
            assert torch.equal(row["pixels"], original["pixels"])
            assert torch.equal(row["next", "pixels"], original["next", "pixels"])


@pytest.mark.parametrize("time", [1, 2, 7])
@pytest.mark.parametrize("done_rate", [0.0, 0.2, 1.0])
def test_frames_come_back(time, done_rate):
    replay, batches = buffer(400, spare=1.0), list(rollouts(4, time=time, done_rate=done_rate))
    for batch in batches:
        replay.extend(batch)
    assert len(replay) == sum(batch.numel() for batch in batches)
    check_against(batches, replay)


def test_frames_come_back_after_the_ring_has_wrapped_around():
    replay, batches = buffer(50, spare=0.9), list(rollouts(12))
    for done, batch in enumerate(batches, 1):
        replay.extend(batch)
        check_against(batches[:done], replay, samples=4)
    assert len(replay) == 50


@pytest.mark.parametrize("n_steps", [1, 3, 20])
def test_n_steps_ahead(n_steps):
    """The brute-force loop: rewards summed and the frame seen until n steps, an episode's or the rollout's end."""
    replay, batches = buffer(400, NStep(0.5, n_steps), spare=1.0), list(rollouts(3))
    rows = {}
    for batch in batches:
        replay.extend(batch)
        for lane in batch:
            for t in range(len(lane)):
                reward, end = 0.0, t
                for k in range(n_steps):
                    reward, end = reward + 0.5**k * float(lane[t + k]["next", "reward"]), t + k
                    if lane[end]["next", "done"] or end == len(lane) - 1:
                        break
                rows[int(lane[t]["id"])] = (reward, end - t + 1, lane[end]["next"])
    for _ in range(10):
        for row in replay.sample():
            reward, ahead, outcome = rows[int(row["id"])]
            assert float(row["next", "reward"]) == pytest.approx(reward, rel=1e-5)
            assert int(row["steps_to_next_obs"]) == ahead
            assert torch.equal(row["next", "pixels"], outcome["pixels"])
            assert torch.equal(row["next", "done"], outcome["done"])


def test_rollouts_behind_one_another_in_time_stay_apart():
    """As MultiSyncCollector(cat_results=-1) gives them: no done between two workers, but another trajectory."""
    lanes = [lane[None] for batch in rollouts(2, done_rate=0.0) for lane in batch]
    for number, lane in enumerate(lanes):
        lane["collector", "traj_ids"] = torch.full((1, 7), number)
    replay, behind = buffer(100, spare=1.0), torch.cat(lanes, 1)
    replay.extend(behind)
    check_against([behind], replay)

    ahead, alone = buffer(100, NStep(0.5, 3), spare=1.0), buffer(100, NStep(0.5, 3), spare=1.0)
    ahead.extend(behind.clone())
    for lane in lanes:
        alone.extend(lane.clone())
    for row, expected in zip(ahead[:], alone[:], strict=True):
        assert int(row["id"]) == int(expected["id"])
        for key in (("next", "reward"), ("next", "done"), "steps_to_next_obs", "pixels", ("next", "pixels")):
            assert torch.equal(row[key], expected[key]), key


def test_a_buffer_larger_than_its_frames_is_an_error():
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(400), batch_size=64)
    replay.append_transform(FrameReplay(50, spare=0.9))
    for batch in rollouts(12):
        replay.extend(batch)
    with pytest.raises(RuntimeError, match=r"more steps than FrameReplay\(capacity=50\)"):
        replay.sample()


def test_memory_is_half():
    replay = buffer(210, spare=0.25)
    for batch in rollouts(10, done_rate=0.0):
        replay.extend(batch)
    assert replay.transform[0].written == 210 + 10 * 3
    assert "pixels" not in replay.storage[:].keys(True)


def test_short_episodes_are_refused_before_a_frame_is_lost():
    replay, batches = buffer(100, spare=0.1), list(rollouts(40, time=2))
    with pytest.raises(ValueError, match=r"110 frames are too few for 100 steps.*loss\.replay\.spare"):
        list(map(replay.extend, batches))


def test_flattened_data_is_refused():
    with pytest.raises(ValueError, match=r"needs rollouts \[\*, T\], got a batch of shape \[21\]"):
        buffer(50).extend(next(rollouts(1)).reshape(-1))


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"loss\.replay\.spare > 0"):
        FrameReplay(10, spare=0)
    with pytest.raises(ValueError, match=r"loss\.replay\.n_steps >= 1"):
        NStep(0.9, 0)


@pytest.mark.parametrize("written", [2, 6])
@pytest.mark.parametrize("spare", [0.9, 1.7])
def test_state_goes_on_exactly_and_in_a_larger_ring_too(written, spare):
    replay, batches = buffer(50, spare=0.9), list(rollouts(12))
    for batch in batches[:written]:
        replay.extend(batch)
    other = buffer(50, spare=spare)
    other.extend(batches[6])  # storage takes its shape from the data
    other.load_state_dict(pickle.loads(pickle.dumps(replay.state_dict())))
    check_against(batches, other)
    for batch in batches[written:]:
        other.extend(batch)
        check_against(batches, other, samples=2)


def test_state_of_a_larger_ring_is_refused():
    replay, batch = buffer(50, spare=0.9), next(rollouts(1))
    replay.extend(batch)
    other = buffer(50, spare=0.5)
    other.extend(batch)
    with pytest.raises(ValueError, match=r"a ring of 95 frames, this one holds 75: keep .*spare or more"):
        other.load_state_dict(replay.state_dict())
