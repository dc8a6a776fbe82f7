"""
Inside TorchRL's trainers
=========================
**Author**: the gaze_torchrl developers

TorchRL has trainers that hold the loop, so that you do not write it: ``PPOTrainer``, ``SACTrainer`` and others. The
pieces of gaze_torchrl go into them as they are. This tutorial does so twice, on policy and off policy.

What you will learn:

- How a gaze, a ``TripletReplay`` and a composed loss go into ``PPOTrainer``;
- how to log where the agent looks by a hook;
- what changes for ``SACTrainer``;
- which two options need a thought when actor and critic share a trunk.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU and about a minute;
- the second tutorial, where the same pieces stand in a loop of their own.
"""

import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs import RewardSum, TransformedEnv
from torchrl.objectives import SoftUpdate
from torchrl.objectives.value import GAE
from torchrl.trainers.algorithms import PPOTrainer, SACTrainer
from torchrl.weight_update import NoWeightSyncScheme

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, qvalue_head, value_head
from gaze_torchrl.objectives import GazePPOLoss, GazeSACLoss, TripletContrastiveLoss
from gaze_torchrl.replay import QuantileMiner, ReturnToGo, TripletReplay, ValueTarget
from gaze_torchrl.training.evaluation import gaze_distance

torch.manual_seed(1)
torch.set_num_threads(1)

######################################################################
# The agent
# ---------
#
# Both algorithms get agents alike; only the policy's distribution differs.


def build(policy):
    """An environment, an actor with a gaze, and what critics and logs need of it."""
    env = TransformedEnv(ClutterEnv("easy", num_envs=32, image_size=48, seed=0), RewardSum())
    encoder = FineCNN()
    geometry = encoder.geometry(48, 48)
    gaze = GazeModule(FovealGaze(encoder.out_channels, geometry.size, num_foveae=8))
    readout = GlimpseReadout(encoder.out_channels, proprio_dim=2, num_foveae=8)
    actor = gaze_actor(encoder, gaze, readout, env.action_spec_unbatched, policy=policy)
    return env, actor, gaze, readout, geometry


def collect(env, actor, frames_per_batch, total_frames):
    """A collector whose policy is the actor itself."""
    kept = ["action", "action_log_prob", "features", ("gaze", "mean")]
    return Collector(
        env,
        TensorDictSequential(actor, selected_out_keys=kept),
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        auto_register_policy_transforms=False,
        weight_sync_schemes={"policy": NoWeightSyncScheme()},
    )


######################################################################
# ``NoWeightSyncScheme`` is the first option that needs a thought. A trainer sends the weights of
# ``loss.actor_network`` to the collector. In a composed loss that is the actor's head, without the trunk. Here
# collector and loss share their modules, and nothing has to be sent; a collector in another process would have to be
# sent the whole actor.
#
# Where does it look?
# -------------------
#
# A hook of ``pre_steps_log`` gets each rollout and returns what to log. Ours keeps its numbers for the plots, too.


class GazeLog:
    """Reward of each rollout, and the way from the nearest fovea to the target."""

    def __init__(self, geometry, triplets):
        self.geometry, self.triplets = geometry, triplets
        self.rows = []

    def __call__(self, rollout):
        """A rollout to what is logged of it."""
        distance = gaze_distance(rollout["gaze", "mean"], rollout["truth", "center"], self.geometry)
        self.rows.append(
            {
                "reward": rollout["next", "reward"].mean().item(),
                "gaze_distance": distance.mean().item(),
                "mined_triplets": self.triplets.statistics()["mined_triplets"].item(),
            }
        )
        return self.rows[-1]


######################################################################
# PPO
# ---

env, actor, gaze, readout, geometry = build(policy="normal")
critic = value_head(readout)
loss = GazePPOLoss(
    actor,
    critic,
    auxiliary=TripletContrastiveLoss(gaze, num_triplets=64),
    entropy_coeff=1e-3,
    critic_coeff=0.5,
    normalize_advantage=True,
)
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(1024), sampler=SamplerWithoutReplacement(), batch_size=256)
triplets = TripletReplay(ValueTarget(0.9, 0.95), QuantileMiner(), num_triplets=64)
buffer.append_transform(triplets)

trainer = PPOTrainer(
    collector=collect(env, actor, frames_per_batch=1024, total_frames=16 * 1024),
    total_frames=16 * 1024,
    frame_skip=1,
    loss_module=loss,
    optimizer=torch.optim.Adam(loss.parameters(), lr=1e-3),
    replay_buffer=buffer,
    num_epochs=4,
    optim_steps_per_batch=None,
    gae=GAE(gamma=0.9, lmbda=0.95, value_network=TensorDictSequential(actor, critic), deactivate_vmap=True),
    weight_update_map={"policy": "loss_module.actor_network"},
    clip_norm=0.5,
    progress_bar=False,
)
ppo_log = GazeLog(geometry, triplets)
trainer.register_op("pre_steps_log", ppo_log)
trainer.train()

######################################################################
# The second option is ``gae``: the critic is a head on the embedding, so that the value of an observation begins with
# the actor, and the trainer must not build an estimator from the critic alone.

for name in ppo_log.rows[0]:
    print(f"PPO {name:15} {ppo_log.rows[0][name]:.3f} -> {ppo_log.rows[-1][name]:.3f}")

######################################################################
# SAC
# ---
#
# Off policy, labels need no critic: the return to go is known once an episode has ended. A buffer may be of any size;
# the bank of the transform has a size of its own.

env, actor, gaze, readout, geometry = build(policy="tanh_normal")
spec = env.action_spec_unbatched
critic = qvalue_head(readout, spec)
loss = GazeSACLoss(
    actor, critic, action_spec=spec, auxiliary=TripletContrastiveLoss(gaze, num_triplets=64), alpha_init=0.2
)
loss.make_value_estimator(gamma=0.9)
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(8192), batch_size=128)
triplets = TripletReplay(ReturnToGo(0.9), QuantileMiner(), capacity=4096, min_steps=1024, num_triplets=64)
buffer.append_transform(triplets)

trainer = SACTrainer(
    collector=collect(env, actor, frames_per_batch=640, total_frames=8 * 640),
    total_frames=8 * 640,
    frame_skip=1,
    loss_module=loss,
    optimizer=torch.optim.Adam(loss.parameters(), lr=1e-3),
    replay_buffer=buffer,
    optim_steps_per_batch=20,
    target_net_updater=SoftUpdate(loss, tau=0.01),
    episode_reward_key="episode_reward",  # as RewardSum names it
    progress_bar=False,
)
sac_log = GazeLog(geometry, triplets)
trainer.register_op("pre_steps_log", sac_log)
trainer.train()

for name in sac_log.rows[0]:
    print(f"SAC {name:15} {sac_log.rows[0][name]:.3f} -> {sac_log.rows[-1][name]:.3f}")

######################################################################
# Results
# -------

figure, axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for ax, name in zip(axes, ["reward", "gaze_distance", "mined_triplets"], strict=True):
    for algorithm, log in {"PPO": ppo_log, "SAC": sac_log}.items():
        frames = [(16 if algorithm == "PPO" else 5) * (i + 1) / len(log.rows) for i in range(len(log.rows))]
        ax.plot(frames, [row[name] for row in log.rows], label=algorithm)
    ax.set(title=name, xlabel="thousand frames", ylim=(0, None))
axes[0].legend()
plt.show()

######################################################################
# PPO's gaze has found the target, and its reward begins to rise. SAC's five thousand frames are too short to show
# more than that every part works: triplets are mined as soon as the bank holds ``min_steps``.
#
# Conclusion
# ----------
#
# A trainer takes the composed loss where it takes a TorchRL loss, and the buffer with its transform where it takes a
# buffer. Two options need a thought when actor and critic share a trunk: what is sent to the collector, and what
# values observations.
#
# What to try next:
#
# * more frames: the second tutorial shows where PPO gets with them;
# * ``logger=``, ``save_trainer_file=`` and TorchRL's own hooks: they know nothing of the gaze, and need not.
#
# Further reading
# ---------------
#
# * ``tests/integration/test_trainers.py``: the same for nested keys, frames that are stored once, augmentation, CURL;
# * `TorchRL's trainers <https://pytorch.org/rl/stable/reference/trainers.html>`__
