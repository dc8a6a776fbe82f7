"""What collectors bring: padding is left out; steps that no policy saw, and columns that come and go, are refused."""

import pytest
import torch
from torchrl.collectors import Collector

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor
from gaze_torchrl.replay import FrameReplay, ReturnToGo, Success, ValueTarget
from tests.replay.support import data, replay


def collect(**options):
    """Two rollouts of two environments with episodes of four steps, of a policy that keeps its features."""
    torch.manual_seed(0)
    env = ClutterEnv("easy", num_envs=2, image_size=32, horizon=4, seed=0)
    gaze = GazeModule(FovealGaze(32, (8, 8), num_foveae=2))
    actor = gaze_actor(FineCNN(), gaze, GlimpseReadout(32, 2, 2), env.action_spec_unbatched)
    actor.select_out_keys("action", "features")
    collector = Collector(env, actor, frames_per_batch=12, total_frames=24, **options)
    batches = [batch.clone() for batch in collector]
    collector.shutdown()
    return batches


def bank_of(batches):
    buffer, transform = replay(ReturnToGo(0.9))
    for batch in batches:
        buffer.extend(batch)
    return transform.bank.rows


def test_the_padding_of_split_trajectories_is_left_out():
    whole, split = bank_of(collect()), bank_of(collect(split_trajs=True))
    seen = [
        sorted(zip(*(bank[name].tolist() for name in ("reward", "step", "done")), strict=True))
        for bank in (whole, split)
    ]
    assert seen[0] == seen[1]
    assert len(split) == 24
    assert len(split["episode"].unique()) == len(whole["episode"].unique())


def test_frames_cannot_be_stored_with_padding():
    with pytest.raises(ValueError, match=r"rollouts without padding: set the collector's split_trajs=False"):
        FrameReplay(100).inv(collect(split_trajs=True)[0])


def test_steps_of_no_policy_are_refused():
    """TorchRL's collectors act at random without it, and leave what it would write at zero."""
    batch, *_ = collect(init_random_frames=12)
    assert (batch["features"] == 0).all(), "otherwise there is nothing to refuse"
    buffer, _ = replay()
    with pytest.raises(ValueError, match=r"All features of a batch are zero.* set init_random_frames=None"):
        buffer.extend(batch)


@pytest.mark.parametrize("first", ["with", "without"])
def test_values_that_come_and_go_are_refused(first):
    without, values = data(), data(seed=1)
    values["next", "state_value"] = torch.rand(64, 1)
    buffer, _ = replay(ReturnToGo(0.9))
    one, two = (values, without) if first == "with" else (without, values)
    buffer.extend(one)
    with pytest.raises(ValueError, match=r"with and without \['next_value'\]: all data must hold it, or none"):
        buffer.extend(two)


def test_labels_that_need_values_say_so_at_once():
    buffer, _ = replay(ValueTarget(0.9, 0.95))
    with pytest.raises(KeyError, match="state_value"):
        buffer.extend(data())


def test_a_success_may_be_a_number():
    steps = data()
    steps["next", "success"] = (steps["next", "reward"] > 0.5).float()
    for when in ("once", "at_end"):
        buffer, transform = replay(Success(when))
        buffer.extend(steps)
        assert transform.labelled()[0].tolist() == steps["next", "success"].flatten().tolist()
