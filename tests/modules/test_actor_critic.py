"""Actor and critic: what they read and write, where they start, and what they refuse."""

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical
from torchrl.envs.utils import ExplorationType, set_exploration_type

from gaze_torchrl.modules import FineCNN, FlattenReadout, GazeModule, NoGaze, gaze_actor, value_head


def build(spec, **options):
    readout = FlattenReadout(8, (8, 8), proprio_dim=3, hidden=16)
    actor = gaze_actor(FineCNN((4, 8)), GazeModule(NoGaze(8, (8, 8))), readout, spec, hidden=16, **options)
    return actor, value_head(readout, hidden=16)


def observation(n=5):
    return TensorDict(
        {"pixels": torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), "proprio": torch.randn(n, 3)}, [n]
    )


def test_critic_reads_what_the_actor_wrote():
    actor, critic = build(Bounded(-1, 1, (2,)))
    td = critic(actor(observation()))
    assert td["action"].shape == (5, 2)
    assert td["action_log_prob"].shape == (5,)
    assert td["state_value"].shape == (5, 1)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 10.0)])
def test_starts_in_the_middle_of_the_action_range(low, high):
    actor, _ = build(Bounded(low, high, (4, 2)), initial_log_std=-1.0)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        td = actor(observation())
    torch.testing.assert_close(td["action"], torch.full((5, 2), (low + high) / 2), atol=0.1, rtol=0)
    torch.testing.assert_close(td["scale"], torch.full((5, 2), -1.0).exp())


def test_actions_must_be_continuous_and_bounded():
    with pytest.raises(TypeError, match="bounded, continuous action spec"):
        build(Categorical(4))


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match=r"loss\.hidden must be positive, got 0"):
        value_head(FlattenReadout(8, (8, 8)), hidden=0)
