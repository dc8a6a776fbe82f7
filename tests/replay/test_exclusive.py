"""Samples drawn by other threads while data is stored, and samples that are what is stored."""

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyStackStorage, LazyTensorStorage, TensorDictReplayBuffer

from gaze_torchrl.replay import FrameReplay, QuantileMiner, ReturnToGo, TripletReplay
from tests.replay.support import MEMBERS, data, replay


def told(steps, seed):
    """Steps whose first feature is their reward, which is their label."""
    td = data(steps, seed)
    reward = td["next", "reward"].half().float()
    td["next", "reward"] = reward
    td["features"][:, 0] = reward[..., None]
    return td


@pytest.mark.parametrize("prefetch", [None, 4])
def test_triplets_fit_their_labels_however_they_are_sampled(prefetch):
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(300), batch_size=32, prefetch=prefetch)
    buffer.append_transform(
        TripletReplay(
            ReturnToGo(0.0), QuantileMiner(exclude=0), capacity=60, min_steps=20, num_triplets=32, mine_every=45
        )
    )
    seen = 0
    for seed in range(150):
        buffer.extend(told(30, seed))
        for _ in range(3):
            triplets = buffer.sample()["triplets"]
            triplets = triplets[triplets["valid"]]
            seen += len(triplets)
            for name in MEMBERS:
                assert (triplets[name, "features"][:, 0, 0, 0].float() == triplets[name, "label"]).all()
    assert seen > 10_000


def numbered(first, lanes=8, time=32):
    """A rollout whose pictures tell their number."""
    number = first + torch.arange(lanes * (time + 1)).view(lanes, time + 1)
    picture = torch.stack([number % 256, number // 256], -1).to(torch.uint8)[..., None, None].expand(-1, -1, -1, 8, 8)
    done = torch.zeros(lanes, time, 1, dtype=torch.bool)
    after = {"pixels": picture[:, 1:], "done": done}
    return TensorDict({"pixels": picture[:, :-1], "id": number[:, :-1].clone(), "next": after}, [lanes, time])


def test_frames_that_were_overwritten_before_they_were_sampled_are_not_taken_for_others():
    """A buffer that is replaced half in every extend, and samples drawn ahead: some come too late."""
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(512), batch_size=256, prefetch=3)
    buffer.append_transform(FrameReplay(512, spare=0.04))
    first = late = 0
    for _ in range(100):
        rollout = numbered(first)
        first += rollout.numel() + len(rollout)
        buffer.extend(rollout)
        for _ in range(4):
            try:
                sample = buffer.sample()
            except RuntimeError:  # what it says: below
                late += 1
                continue
            shown = sample["pixels"][:, :, 0, 0].long()
            assert torch.equal(shown[:, 0] + 256 * shown[:, 1], sample["id"] % 65536)
    assert late < 400


def test_a_late_sample_is_told_apart():
    frames = FrameReplay(64, spare=0.25)
    stored = frames.inv(numbered(0, lanes=1))
    frames._writer = -1  # as in a thread that samples ahead
    assert frames(stored)["pixels"].shape == (32, 2, 8, 8)
    for _ in range(3):
        frames.inv(numbered(0, lanes=1))
    frames._writer = -1
    with pytest.raises(RuntimeError, match=r"overwritten before it got them.*prefetch=None"):
        frames(stored)


def test_a_list_of_tensordicts_keeps_no_triplets():
    """Its samples are what it stores: a step that is drawn twice is one object."""
    buffer, _ = replay(storage=LazyStackStorage(64), batch_size=32, num_triplets=16)
    buffer.extend(data())
    before = set(buffer._storage._storage[0].keys(True, True))
    for _ in range(5):
        assert buffer.sample()["triplets", "valid"].tolist() == [True] * 16 + [False] * 16
    assert {key for one in buffer._storage._storage for key in one.keys(True, True)} == before


def test_a_list_of_tensordicts_keeps_no_frames():
    buffer = TensorDictReplayBuffer(storage=LazyStackStorage(512), batch_size=256)
    buffer.append_transform(FrameReplay(512))
    buffer.extend(numbered(0))
    assert buffer.sample()["next", "pixels"].shape == (256, 2, 8, 8)
    assert not any("pixels" in str(key) for one in buffer._storage._storage for key in one.keys(True, True))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_has_a_lock_of_its_own(duplicate):
    transform = TripletReplay(ReturnToGo(0.9), QuantileMiner(), capacity=64, min_steps=2)
    transform.inv(data())
    twin = duplicate(transform)
    assert twin.lock is not transform.lock
    with transform.lock:
        assert twin(TensorDict({}, [4]))["triplets", "valid"].all()
