"""A TorchRL PPO script with a return-guided gaze, without Hydra.

The loop is that of TorchRL's PPO tutorial: collect, estimate advantages, extend the buffer, take minibatch steps. Three
things are new, and marked (1), (2), (3): a policy with a gaze, a transform on the buffer, a composed loss.

    python tutorials/ppo_with_gaze.py [--frames 40000]
"""

import argparse

import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.objectives.value import GAE

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, value_head
from gaze_torchrl.objectives import GazePPOLoss, TripletContrastiveLoss
from gaze_torchrl.replay import QuantileMiner, TripletReplay, ValueTarget


def main(frames: int) -> float:
    """Train for a number of environment steps; the mean reward of the last rollout."""
    torch.manual_seed(0)
    env = ClutterEnv("easy", num_envs=32)
    env.set_seed(0)

    # (1) A policy with a gaze: pixels -> features -> where to look -> what lies there -> action.
    encoder = FineCNN()
    map_size = encoder.geometry(64, 64).size
    gaze = GazeModule(FovealGaze(encoder.out_channels, map_size, num_foveae=4))
    readout = GlimpseReadout(encoder.out_channels, proprio_dim=2, num_foveae=4)
    actor = gaze_actor(encoder, gaze, readout, env.action_spec_unbatched)
    critic = value_head(readout)
    # The rollout keeps the features, which the transform below puts into its bank.
    policy = TensorDictSequential(actor, selected_out_keys=["action", "action_log_prob", "features"])

    # (2) The buffer labels what each step was worth, and attaches triplets to its samples.
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256
    )
    buffer.append_transform(TripletReplay(ValueTarget(gamma=0.9, lmbda=0.95), QuantileMiner(), num_triplets=32))

    # (3) TorchRL's ClipPPOLoss, plus the contrastive loss of the gaze.
    loss = GazePPOLoss(
        actor,
        critic,
        auxiliary=TripletContrastiveLoss(gaze, num_triplets=32),
        entropy_coeff=0.001,
        critic_coeff=0.5,
        normalize_advantage=True,
    )

    # Everything below is any PPO loop.
    values = GAE(gamma=0.9, lmbda=0.95, value_network=TensorDictSequential(actor, critic), deactivate_vmap=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    collector = Collector(
        env, policy, frames_per_batch=1024, total_frames=frames, auto_register_policy_transforms=False
    )
    reward = float("nan")
    for i, rollout in enumerate(collector):
        with torch.no_grad():
            values(rollout)
        buffer.extend(rollout.reshape(-1))
        for _ in range(4):
            for minibatch in buffer:
                terms = loss(minibatch)
                optimizer.zero_grad()
                sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
        reward = rollout["next", "reward"].mean().item()
        if i % 5 == 4 or (i + 1) * 1024 >= frames:
            contrast = terms["loss_contrast"].item()
            print(f"{(i + 1) * 1024:>7} frames: mean reward {reward:.3f}, loss_contrast {contrast:.3f}")
    collector.shutdown()
    return reward


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40 * 1024, help="environment steps, a multiple of 1024")
    main(parser.parse_args().frames)
