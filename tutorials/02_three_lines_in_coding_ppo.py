"""
Three lines in TorchRL's PPO tutorial
=====================================
**Author**: the gaze_torchrl developers

TorchRL's tutorial `Reinforcement Learning (PPO) with TorchRL
<https://pytorch.org/rl/stable/tutorials/coding_ppo.html>`__ trains a policy on a state vector. Here the same script
learns from pixels, with a gaze that its own returns teach where to look. Names and order are those of TorchRL's
tutorial, and only what differs is explained.

What you will learn:

- How to build a policy with a gaze for any pixel environment;
- how to let a replay buffer label returns and mine triplets;
- how to add a contrastive loss to TorchRL's ``ClipPPOLoss``;
- which lines of a PPO script that changes.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU and about a minute;
- TorchRL's tutorial, or any PPO script of your own.
"""

from collections import defaultdict

import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type
from torchrl.objectives.value import GAE

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, value_head
from gaze_torchrl.objectives import GazePPOLoss, TripletContrastiveLoss
from gaze_torchrl.replay import QuantileMiner, TripletReplay, ValueTarget
from gaze_torchrl.training.evaluation import gaze_distance
from gaze_torchrl.training.overlay import draw_gaze

torch.manual_seed(0)
torch.set_num_threads(1)  # networks this small are faster on one thread

######################################################################
# Define Hyperparameters
# ----------------------

frames_per_batch = 1024
total_frames = 20 * frames_per_batch
sub_batch_size = 256
num_epochs = 4
lr = 1e-3
max_grad_norm = 0.5
gamma, lmbda = 0.9, 0.95
entropy_eps = 1e-3

######################################################################
# Define an environment
# ---------------------
#
# Any TorchRL environment whose ``pixels`` are uint8 ``[*, 3, H, W]`` will do. This one is a batch of 32: a white
# disk, which the agent moves, a red one, where it should go, and distractors.

env = ClutterEnv("easy", num_envs=32, image_size=48, seed=0)
check_env_specs(env)
print(env.observation_spec["pixels"].shape, env.action_spec_unbatched)

######################################################################
# Policy: the first difference
# ----------------------------
#
# TorchRL's tutorial has an MLP here. A policy with a gaze is an *encoder* (pixels to a feature map), a *gaze* (the
# map to Gaussians that say where to look) and a *readout* (what lies there to an embedding), with a head for the
# actions on top.

encoder = FineCNN()
map_size = encoder.geometry(48, 48).size
gaze = GazeModule(FovealGaze(encoder.out_channels, map_size, num_foveae=8))
readout = GlimpseReadout(encoder.out_channels, proprio_dim=2, num_foveae=8)
policy_module = gaze_actor(encoder, gaze, readout, env.action_spec_unbatched)

######################################################################
# It is a TensorDict module like any other, and writes what it looked at beside the action:

looked = policy_module(env.reset())
print("gaze:", {key: tuple(value.shape) for key, value in looked["gaze"].items()})

######################################################################
# Value network
# -------------
#
# The critic is a head on the actor's embedding. Where raw observations need a value, put it behind the actor.

value_module = value_head(readout)
value_of_observations = TensorDictSequential(policy_module, value_module)

######################################################################
# Data collector
# --------------
#
# A rollout should keep the features, from which triplets are mined, and not the other maps, which would only take
# memory.

policy = TensorDictSequential(policy_module, selected_out_keys=["action", "action_log_prob", "features"])
collector = Collector(
    env,
    policy,
    frames_per_batch=frames_per_batch,
    total_frames=total_frames,
    auto_register_policy_transforms=False,  # those are for recurrent policies
)

######################################################################
# Replay buffer: the second difference
# ------------------------------------
#
# One transform. When data is extended, it copies the features into a bank, labels every step with what it was worth,
# and mines triplets: steps that look alike, two of which had a similar return and one a different one. Samples bring
# triplets along under ``"triplets"``. TorchRL's tutorial extends the same rollout again in each epoch, with new
# advantages: ``skip_repeats`` keeps it from counting as new.

replay_buffer = TensorDictReplayBuffer(
    storage=LazyTensorStorage(frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=sub_batch_size
)
triplets = TripletReplay(ValueTarget(gamma, lmbda), QuantileMiner(), num_triplets=64, skip_repeats=True)
replay_buffer.append_transform(triplets)

######################################################################
# Loss function: the third difference
# -----------------------------------
#
# ``GazePPOLoss`` is TorchRL's ``ClipPPOLoss`` for an actor like ours, with room for auxiliary losses. Its arguments
# are those of ``ClipPPOLoss``. The contrastive loss wants what the gaze sees to be alike for steps of similar
# returns.

advantage_module = GAE(
    gamma=gamma,
    lmbda=lmbda,
    value_network=value_of_observations,
    deactivate_vmap=True,  # the gaze reads whole batches
)
loss_module = GazePPOLoss(
    policy_module,
    value_module,
    auxiliary=TripletContrastiveLoss(gaze, num_triplets=64),
    entropy_coeff=entropy_eps,
    critic_coeff=0.5,
    normalize_advantage=True,
)
print("loss terms:", [key for key in loss_module.out_keys if key.startswith("loss_")])

optim = torch.optim.Adam(loss_module.parameters(), lr)

######################################################################
# Training loop
# -------------
#
# As in TorchRL's tutorial, but that there is one more term to add up.

logs = defaultdict(list)
for tensordict_data in collector:
    for _ in range(num_epochs):
        with torch.no_grad():
            advantage_module(tensordict_data)
        replay_buffer.extend(tensordict_data.reshape(-1))
        for _ in range(frames_per_batch // sub_batch_size):
            subdata = replay_buffer.sample()
            loss_vals = loss_module(subdata)
            loss_value = (
                loss_vals["loss_objective"]
                + loss_vals["loss_critic"]
                + loss_vals["loss_entropy"]
                + loss_vals["loss_contrast"]
            )
            loss_value.backward()
            torch.nn.utils.clip_grad_norm_(loss_module.parameters(), max_grad_norm)
            optim.step()
            optim.zero_grad()

    logs["reward"].append(tensordict_data["next", "reward"].mean().item())
    logs["loss"].append(loss_value.item())
    logs["loss_contrast"].append(loss_vals["loss_contrast"].item())
    logs["mined"].append(triplets.statistics()["mined_triplets"].item())
    if len(logs["reward"]) % 5 == 0:
        # As in TorchRL's tutorial, an episode without noise now and then, here in an environment of its own: the
        # collector's is amid its episodes.
        judge = ClutterEnv("easy", num_envs=32, image_size=48, seed=1)
        with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
            eval_rollout = judge.rollout(20, policy_module)
        place, target = eval_rollout["gaze", "mean"], eval_rollout["truth", "center"]
        logs["eval success"].append(eval_rollout["next", "success"][:, -1].float().mean().item())
        logs["eval gaze distance"].append(gaze_distance(place, target, encoder.geometry(48, 48)).mean().item())
        print(", ".join(f"{name} {values[-1]:.3f}" for name, values in logs.items()))
collector.shutdown()

######################################################################
# Results
# -------

figure, axes = plt.subplots(1, 4, figsize=(14, 3), layout="constrained")
for ax, name in zip(axes, ["reward", "eval success", "eval gaze distance", "mined"], strict=True):
    ax.plot([total_frames / 1000 * (i + 1) / len(logs[name]) for i in range(len(logs[name]))], logs[name])
    ax.set(title=name, xlabel="thousand frames", ylim=(0, None))
plt.show()

figure, axes = plt.subplots(1, 4, figsize=(14, 2), layout="constrained")
for ax, episode in zip(axes, eval_rollout[:, 0], strict=False):
    ax.imshow(draw_gaze(episode["pixels"], episode["gaze"], encoder.geometry(48, 48)))
    ax.axis("off")
figure.suptitle("First steps of four evaluation episodes: what the agent sees, and where it looks")
plt.show()

######################################################################
# The reward rises, and the gaze's way to the target falls. What this does *not* show is how much of it is due to the
# contrastive loss: set ``coeff=0`` in ``TripletContrastiveLoss`` and compare, with several seeds. On this world the
# README's results find little difference.
#
# Exactly which lines differ
# --------------------------
#
# .. code-block:: diff
#
#      # policy
#    - policy_module = ProbabilisticActor(TensorDictModule(actor_net, ...), ...)
#    + policy_module = gaze_actor(encoder, gaze, readout, env.action_spec_unbatched)
#    - value_module = ValueOperator(value_net, in_keys=["observation"])
#    + value_module = value_head(readout)
#
#      # buffer
#    + replay_buffer.append_transform(TripletReplay(ValueTarget(gamma, lmbda), QuantileMiner(), skip_repeats=True))
#
#      # loss
#    - loss_module = ClipPPOLoss(policy_module, value_module, ...)
#    + loss_module = GazePPOLoss(policy_module, value_module, auxiliary=TripletContrastiveLoss(gaze), ...)
#
#      # loop
#    + loss_value = loss_value + loss_vals["loss_contrast"]
#
# Besides, the collector's policy keeps ``"features"``, GAE values observations through the actor, and the buffer is a
# ``TensorDictReplayBuffer``. We left out TorchRL's learning-rate schedule and its transforms, which normalise a state
# vector.
#
# Conclusion
# ----------
#
# A policy with a gaze, a transform on the buffer and a composed loss: the rest of a PPO script stays what it was.
#
# What to try next:
#
# * another gaze, such as ``PatchGaze``, or another miner, such as ``VisualMiner``: they fit the same places;
# * an environment of your own: what it must write is ``pixels`` and, if the readout has ``proprio_dim``, ``proprio``.
#
# Further reading
# ---------------
#
# * The next tutorial looks into the buffer, the sixth composes other losses, and the seventh hands these pieces to
#   TorchRL's ``PPOTrainer``.
# * `Proximal Policy Optimization Algorithms <https://arxiv.org/abs/1707.06347>`__
