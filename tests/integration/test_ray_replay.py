"""TorchRL's Ray replay service: the buffer in a process of its own, the bank and the miner with it."""

from functools import partial

import pytest
import torch
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from gaze_torchrl.modules import qvalue_head
from gaze_torchrl.objectives import GazeSACLoss
from gaze_torchrl.replay import QuantileMiner, ReturnToGo, TripletReplay
from tests.integration.test_trainers import FRAMES, ROLLOUTS, Setup

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


def triplets(members):
    """Made in the service's process, like the storage."""
    options = {"capacity": ROLLOUTS * FRAMES, "num_triplets": 16, "min_steps": 64}
    return TripletReplay(ReturnToGo(0.9), QuantileMiner(), members=members, **options)


def test_samples_of_a_ray_service_bring_triplets_that_train_the_gaze():
    pytest.importorskip("ray")
    setup = Setup("tanh_normal")
    critic = qvalue_head(setup.readout, setup.action_spec, hidden=16)
    setup.loss = GazeSACLoss(setup.actor, critic, action_spec=setup.action_spec, auxiliary=setup.contrast)
    setup.loss.make_value_estimator(gamma=0.9)
    updater = SoftUpdate(setup.loss, tau=0.1)
    replay = TensorDictReplayBuffer(
        storage=partial(LazyTensorStorage, ROLLOUTS * FRAMES, ndim=2),
        batch_size=32,
        transform_factory=partial(triplets, setup.contrast.member_keys),
        service_backend="ray",
        service_backend_options={
            "remote_config": {"num_cpus": 0},
            "ray_init_config": {"num_cpus": 1, "log_to_driver": False, "include_dashboard": False},
        },
    )
    try:
        collector, seen = setup.collector(), []
        for rollout in collector:
            seen.append(rollout["features"].flatten(0, 1).half())
            replay.extend(rollout)
        collector.shutdown()
        setup.learn()
        sample = replay.sample()
        assert sample["triplets", "valid"].any()
        anchors = sample["triplets", "anchor", "features"].reshape(-1, *seen[0].shape[1:])
        valid = sample["triplets", "valid"].reshape(-1)
        known = torch.cat(seen).flatten(1)
        assert all((known == anchor.flatten()).all(1).any() for anchor in anchors[valid][:8]), (
            "features as they were seen"
        )
        assert float(setup.descend(sample)["loss_contrast"]) > 0
        updater.step()
        assert any("gaze" in name for name in setup.changed())
    finally:
        replay.shutdown()
