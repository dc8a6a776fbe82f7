"""Steps whose returns are known, and a buffer that mines them."""

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from gaze_torchrl.replay import QuantileMiner, ReturnToGo, TripletReplay


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
