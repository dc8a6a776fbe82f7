"""What replay and bank take at the size of a preset."""

import pytest
import torch

from gaze_torchrl.envs.rendering import RendererNotFound
from gaze_torchrl.replay import FrameReplay
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.loop import build_learner


def allocated(*tensors):
    """Bytes of the whole storages, which are as large as the capacity; what two tensors share counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.maniskill
@pytest.mark.slow
@pytest.mark.thorough
def test_100k_maniskill_frames_of_sac_take_less_than_two_and_a_half_gigabytes():
    """Frames, rows and bank of the preset as it is, after a rollout of its own policy."""
    pytest.importorskip("mani_skill")
    config = compose_config(["experiment=sac_maniskill", "task=PullCube-v1"])
    assert config.loss.replay.capacity == 100_000
    torch.manual_seed(0)
    try:
        env = build_env(config, config.env.num_envs, 0)
    except RendererNotFound as error:
        pytest.skip(str(error))
    learner = build_learner(config, build_agent(config, env), env)
    frames = config.collector.frames_per_batch
    collector = assemble(config.collector, "collector", create_env_fn=env, policy=learner.policy(), total_frames=frames)
    for rollout in collector:
        learner.update(rollout)
    collector.shutdown()

    ring = next(transform.frames for transform in learner.buffer.transform if isinstance(transform, FrameReplay))
    rows = allocated(*learner.buffer.storage[:].values(True, True))
    bank = learner.triplets.bank.bytes_per_step * learner.triplets.bank.capacity
    assert ring.shape == (125_000, 3, 64, 64)
    assert allocated(ring) + rows + bank < 2.5e9
    # Beside its frame a step holds numbers only: nothing of the size of a picture or a feature map hides among them.
    assert 8 * 100_000 < rows < 1024 * 100_000
