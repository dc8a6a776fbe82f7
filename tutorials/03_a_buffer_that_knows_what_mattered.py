"""
A replay buffer that knows what mattered
========================================
**Author**: the gaze_torchrl developers

A replay buffer holds what happened. Two steps in it may look nearly the same, and yet one led to reward and the other
did not: what differs between them is worth looking at. ``TripletReplay`` is a transform that finds such steps in any
TorchRL buffer. It labels every step with what it was worth, and attaches *triplets* to the samples: an anchor, a
look-alike of a similar return, and a look-alike of a different one. Here we take it apart, without any training loop
around it.

What you will learn:

- What data the transform needs, and what it adds to a sample;
- what a label is, and when it is known;
- how to look at mined triplets, as pictures and as numbers;
- how miners differ, and what the two control miners are for;
- what the contrastive loss alone makes of such triplets.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU and half a minute;
- TorchRL's collectors and replay buffers.
"""

import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule
from gaze_torchrl.objectives import TripletContrastiveLoss
from gaze_torchrl.replay import QuantileMiner, RandomMiner, ReturnToGo, ShuffledReturnsMiner, TripletReplay, VisualMiner

torch.manual_seed(0)
torch.set_num_threads(1)

######################################################################
# Something happens
# -----------------
#
# Two behaviours share the 32 lanes: half of them walk to the target, which they are told for this purpose, and half
# stroll at random. What they see goes through an encoder that has learnt nothing, since the transform compares steps
# by features.


def walk(target, position):
    """To the target in even lanes, anywhere in odd ones."""
    purposeful = torch.arange(len(position))[:, None] % 2 == 0
    return torch.where(purposeful, 2 * (target - position), torch.randn_like(position)).clamp(-1, 1)


env = ClutterEnv("easy", num_envs=32, image_size=48, seed=0)
encoder = FineCNN()
policy = TensorDictSequential(
    TensorDictModule(encoder, in_keys=["pixels"], out_keys=["features"]),
    TensorDictModule(walk, in_keys=[("truth", "center"), "proprio"], out_keys=["action"]),
)
collector = Collector(
    env, policy, frames_per_batch=32 * 50, total_frames=2 * 32 * 50, auto_register_policy_transforms=False
)
with torch.no_grad():
    rollouts = [rollout.clone() for rollout in collector]
collector.shutdown()
print(rollouts[0].batch_size, sorted(map(str, rollouts[0].keys())))

######################################################################
# The transform
# -------------
#
# It reads the features, the reward, the ends of episodes and the numbers of trajectories, which TorchRL's collectors
# write. The label here is the discounted return from a step to the end of its episode. ``members`` says what each
# step of a triplet shall hold: the loss needs the features, and the pixels are for us to look at.


def buffer_with(miner):
    """A buffer with the transform, and the rollouts in it."""
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(4096), batch_size=64)
    triplets = TripletReplay(
        ReturnToGo(gamma=0.9), miner, capacity=4096, num_triplets=64, min_steps=1024, members=["features", "pixels"]
    )
    buffer.append_transform(triplets)
    for rollout in rollouts:
        buffer.extend(rollout.reshape(-1))
    return buffer, triplets


buffer, triplets = buffer_with(QuantileMiner())
sample = buffer.sample()
print(sample["triplets"])

######################################################################
# Triplets travel inside the sample and have its batch size, so that they can be sliced and moved with it. ``valid``
# says which rows hold one. The features themselves are not kept in the buffer but in a bank of the transform, in half
# precision:

print("features in the buffer:", "features" in sample.keys())  # noqa: SIM118 (a tensordict is no mapping)
print(f"steps in the bank: {len(triplets.bank)}, bytes per step: {triplets.bank.bytes_per_step}")

######################################################################
# Labels
# ------
#
# Labels are right whatever the order of writing, since the transform knows the time order within each trajectory. Let
# us compute one episode's returns by hand.

rows = triplets.bank.rows
label, known = triplets.labelled()
episode = rows["episode"] == rows["episode"][0]
by_hand, total = [], 0.0
for reward in rows["reward"][episode].flip(0).tolist():
    total = reward + 0.9 * total
    by_hand.insert(0, total)
print("by hand:  ", [round(value, 2) for value in by_hand[:6]])
print("the label:", [round(value, 2) for value in label[episode].tolist()[:6]])

######################################################################
# An episode has 20 steps and the lanes took 100 each, in two rollouts of 50: the third episode of a lane lies in
# both, and was labelled once its end had arrived. Of rollouts that end amid an episode, the last steps have no label
# yet, and are not mined. To see that, here is the same transform after the first rollout alone.

halfway = TripletReplay(ReturnToGo(gamma=0.9), QuantileMiner(), capacity=4096, min_steps=1024)
halfway.inv(rollouts[0].reshape(-1))
print(
    f"known labels: {halfway.labelled()[1].float().mean():.2f} after one rollout, {known.float().mean():.2f} after two"
)

purposeful = torch.arange(32).repeat_interleave(50).repeat(2) % 2 == 0
figure, ax = plt.subplots(figsize=(6, 2.6), layout="constrained")
ax.hist([label[purposeful].numpy(), label[~purposeful].numpy()], bins=25, label=["walk to the target", "stroll"])
ax.set(xlabel="return from this step on", ylabel="steps")
ax.legend()
plt.show()

######################################################################
# Triplets as pictures
# --------------------
#
# The quantile miner looks for an anchor among the highest and lowest thirty percent of the labels. Among the steps of
# other episodes that look most like it, it takes the nearest of the anchor's class as positive, and the nearest of
# the other class as negative.

mined = sample["triplets"][sample["triplets", "valid"]]
figure, axes = plt.subplots(3, 6, figsize=(10, 5.6), layout="constrained")
for row, name in zip(axes, ["anchor", "positive", "negative"], strict=True):
    row[0].set_ylabel(name)
    for ax, member in zip(row, mined[name], strict=False):
        ax.imshow(member["pixels"].movedim(0, -1))
        ax.set(xticks=[], yticks=[], title=f"return {member['label']:.1f}")
plt.show()

######################################################################
# Columns are triplets. With an encoder that has learnt nothing, what looks alike is mostly the background; whether
# the white disk is near the red one is a detail. That is the point: to tell the negative from the positive, a gaze
# must find the detail. (Not every detail can be seen: who walks to the target has a high return while still far away,
# since labels look ahead.)
#
# Triplets as numbers
# -------------------
#
# Other miners find other triplets in the same data. The last two are controls: they break the link between looks and
# returns, each in its own way, and a method that is guided by returns should do better than with them.


def describe(miner):
    """Mean cosine of the anchor's key to those of positive and negative; mean difference of their labels."""
    _, found = buffer_with(miner)
    row = found.bank.row(found.mined["number"])
    key, true_label = found.bank.rows["key"], found.labelled()[0]
    anchor, positive, negative = (key[row] - key.mean(0)).unbind(1)
    anchor_label, positive_label, negative_label = true_label[row].unbind(1)
    return {
        "triplets": len(row),
        "similar to positive": torch.cosine_similarity(anchor, positive, -1).mean().item(),
        "to negative": torch.cosine_similarity(anchor, negative, -1).mean().item(),
        "label differs from positive": (anchor_label - positive_label).abs().mean().item(),
        "from negative": (anchor_label - negative_label).abs().mean().item(),
    }


table = {
    type(miner).__name__: describe(miner)
    for miner in [QuantileMiner(), VisualMiner(), RandomMiner(), ShuffledReturnsMiner()]
}
for name, facts in table.items():
    print(f"{name:22}", ", ".join(f"{key} {value:.2f}" for key, value in facts.items()))

######################################################################
# Read it line by line. ``QuantileMiner``: both are look-alikes, and only the negative's return differs.
# ``VisualMiner`` turns it round: the positive looks alike and has *another* return, the negative looks different.
# ``RandomMiner``: nothing looks alike. ``ShuffledReturnsMiner``: look-alikes, but the returns that it went by
# belonged to other steps, so that by the true ones positive and negative differ from the anchor by as much.
#
# What the loss makes of it
# -------------------------
#
# The features stay what they are; only the gaze learns, from triplets alone, without any reward signal else.

gaze = GazeModule(FovealGaze(encoder.out_channels, encoder.geometry(48, 48).size, num_foveae=4))
loss = TripletContrastiveLoss(gaze, num_triplets=64)
optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
history = []
for _ in range(200):
    terms = loss(buffer.sample())
    optimizer.zero_grad()
    terms["loss_contrast"].backward()
    optimizer.step()
    history.append((terms["loss_contrast"].item(), terms["triplet_accuracy"].item()))
losses, accuracies = torch.tensor(history).T
print(f"loss {losses[:20].mean():.4f} -> {losses[-20:].mean():.4f}")
print(f"triplets told apart {accuracies[:20].mean():.2f} -> {accuracies[-20:].mean():.2f}")

######################################################################
# The loss falls, and the share of triplets that the gaze tells apart rises little: what can be told apart through
# features that nobody has trained is limited. In a training loop the RL loss shapes the features, and the bank holds
# the newest ones.
#
# Conclusion
# ----------
#
# A label per step, a search for look-alikes, a rule for positives and negatives: three parts, each of which can be
# swapped, in one transform that goes on any replay buffer.
#
# What to try next:
#
# * ``ValueTarget`` for unfinished episodes, once there is a critic;
# * ``normalize=RankNormalize()``, where returns have outliers;
# * ``keys=ProjectedKeys(...)``, which compares whole maps;
# * ``gaze-view RUN``, which shows the triplets of a training run with the gaze on them.
#
# Further reading
# ---------------
#
# * The second tutorial trains with this transform, the fourth writes a miner.
# * ``docs/costs.md``: what mining costs, and how the keys agree;
# * ``docs/scale.md``: the same transform in a Ray replay service.
