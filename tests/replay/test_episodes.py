"""The place of each step in its episode, told from the order of writing alone."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from gaze_torchrl.replay import FeatureBank
from gaze_torchrl.replay.episodes import place_in_episode, time_order


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    lanes=st.integers(1, 4),
    batches=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    own_ids=st.booleans(),
)
def test_counts_on_over_batches_and_the_turning_ring(seed, lanes, batches, own_ids):
    """Ids may be new for each episode or name the lane: `done` tells its episodes apart."""
    generator = torch.Generator().manual_seed(seed)
    bank, ids, truth = FeatureBank(capacity=6 * lanes), list(range(lanes)), {}
    clock, episode, fresh = [0] * lanes, list(range(lanes)), lanes
    for steps in batches:
        rows = []
        for lane in range(lanes):
            for _ in range(steps):
                done = torch.rand((), generator=generator).item() < 0.3
                rows.append((ids[lane], done, clock[lane], episode[lane]))
                clock[lane] += 1
                if done:
                    clock[lane], episode[lane], fresh = 0, fresh, fresh + 1
                    ids[lane] = episode[lane] if own_ids else lane
        trajectory, done, step, which = map(torch.tensor, zip(*rows, strict=True))
        found, number = place_in_episode(trajectory, done, bank.rows if len(bank) else None)
        assert torch.equal(found, step)
        for key, value in zip(which.tolist(), number.tolist(), strict=True):
            assert truth.setdefault(key, value) == value
        bank.extend(TensorDict({"trajectory": trajectory, "done": done, "step": found, "episode": number}, [len(rows)]))
    assert len(set(truth.values())) == len(truth)


def test_time_order_is_by_trajectory_and_then_by_writing():
    trajectory, written = torch.randint(5, (50,)), torch.randperm(50)
    order = time_order(trajectory, written).tolist()
    assert order == sorted(range(50), key=lambda i: (trajectory[i].item(), written[i].item()))
