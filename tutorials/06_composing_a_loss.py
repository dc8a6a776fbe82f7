"""
Composing a loss: TD3 with CURL
===============================
**Author**: the gaze_torchrl developers

``gaze-train`` has presets for seven of TorchRL's losses. ``with_auxiliary`` takes more: here TD3, for which there is
none, and beside it CURL, an auxiliary that trains the encoder to know an image again after it was shifted.

What you will learn:

- How ``with_auxiliary`` extends a TorchRL loss class, and what stays TorchRL's;
- which term of the loss trains which part of the agent;
- how to write an off-policy loop around it, with two kinds of target networks;
- what happens to two auxiliaries that write the same key.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU and about a minute;
- TorchRL's off-policy losses, and the second tutorial.
"""

from collections import defaultdict

import matplotlib.pyplot as plt
import torch
from tensordict.nn import TensorDictSequential
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import AdditiveGaussianModule
from torchrl.objectives import SoftUpdate, TD3Loss

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.modules import FineCNN, FovealGaze, GazeModule, GlimpseReadout, gaze_actor, qvalue_head
from gaze_torchrl.objectives import CURLLoss, GazeRegularizer, TripletContrastiveLoss, with_auxiliary

torch.manual_seed(0)
torch.set_num_threads(1)

######################################################################
# An agent for TD3
# ----------------
#
# TD3 has a deterministic policy and critics of state and action. As always here, encoder, gaze and readout live in
# the actor, as its *trunk*, and critics are heads on the embedding.

env = ClutterEnv("easy", num_envs=16, image_size=32, seed=0)
encoder = FineCNN()
gaze = GazeModule(FovealGaze(encoder.out_channels, encoder.geometry(32, 32).size, num_foveae=8))
readout = GlimpseReadout(encoder.out_channels, proprio_dim=2, num_foveae=8)
spec = env.action_spec_unbatched
actor = gaze_actor(encoder, gaze, readout, spec, policy="deterministic", hidden=128)
critic = qvalue_head(readout, spec, hidden=128)

######################################################################
# The loss
# --------
#
# ``with_auxiliary(TD3Loss)`` is a subclass of ``TD3Loss``. It splits the trunk off the actor, runs it once per call,
# and hands the embeddings to TorchRL's loss. Auxiliaries are ``LossModule`` objects whose terms are added to the
# output.

curl = CURLLoss(actor[0].encoder, coeff=0.1)
GazeTD3Loss = with_auxiliary(TD3Loss)
loss = GazeTD3Loss(actor, critic, auxiliary=[curl, GazeRegularizer(drift=0.01)], action_spec=spec)
loss.make_value_estimator(gamma=0.9)
print(GazeTD3Loss.__mro__[:3])
print([key for key in loss.out_keys if key.startswith("loss_")])

######################################################################
# Two auxiliaries that write the same key cannot be told apart, and are refused when the loss is built. The triplet
# loss and CURL are such a pair:

try:
    GazeTD3Loss(actor, critic, auxiliary=[curl, TripletContrastiveLoss(gaze)], action_spec=spec)
except ValueError as error:
    refused = str(error)
    print("refused:", refused)

######################################################################
# The loop
# --------
#
# There are two kinds of targets: TD3's critics and actor, and the moving average of the encoder that CURL compares
# with. Each has an updater, as usual in TorchRL.

updaters = [SoftUpdate(loss, tau=0.01), SoftUpdate(curl, tau=curl.tau)]
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

noise = AdditiveGaussianModule(env.action_spec, sigma_init=0.3, sigma_end=0.3)
collector = Collector(
    env,
    TensorDictSequential(actor, noise, selected_out_keys=["action"]),
    frames_per_batch=320,
    total_frames=40 * 320,
    auto_register_policy_transforms=False,
)
buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(40 * 320), batch_size=128)

logs = defaultdict(list)
for rollout in collector:
    buffer.extend(rollout.exclude("truth", ("next", "truth")).reshape(-1))
    for _ in range(20):
        terms = loss(buffer.sample())
        optimizer.zero_grad()
        sum(value for name, value in terms.items() if name.startswith("loss_")).backward()
        optimizer.step()
        for updater in updaters:
            updater.step()
        for name, value in terms.items():
            logs[name].append(value.mean().item())
    logs["reward"].append(rollout["next", "reward"].mean().item())
collector.shutdown()

for name in ["loss_qvalue", "loss_contrast", "curl_accuracy", "reward"]:
    share = len(logs[name]) // 10
    print(f"{name:14} {sum(logs[name][:share]) / share:.3f} -> {sum(logs[name][-share:]) / share:.3f}")

figure, axes = plt.subplots(1, 4, figsize=(14, 3), layout="constrained")
for ax, name in zip(axes, ["loss_qvalue", "loss_contrast", "curl_accuracy", "reward"], strict=True):
    ax.plot(logs[name])
    ax.set(title=name, xlabel="rollouts" if name == "reward" else "gradient steps")
plt.show()

######################################################################
# Who trains what
# ---------------
#
# Off policy, the critic trains the trunk and the actor does not: its loss gets constant embeddings. CURL trains the
# encoder, and neither gaze nor heads. The norms of the gradients say so:

parts = {"encoder": actor[0].encoder, "gaze": gaze, "readout": readout, "actor's head": actor[1]}
terms = loss(buffer.sample())
norms = {}
for term in ["loss_qvalue", "loss_actor", "loss_contrast"]:
    for part, module in parts.items():
        gradients = torch.autograd.grad(terms[term], list(module.parameters()), retain_graph=True, allow_unused=True)
        norms[term, part] = sum(one.square().sum() for one in gradients if one is not None) ** 0.5
    print(f"{term:14}", {part: f"{float(norms[term, part]):.3g}" for part in parts})

######################################################################
# What this run shows: CURL soon finds nearly every image again among 128, and the reward has begun to rise. What it
# does not show: that TD3 solves this world, for which it is too short, or that CURL helps it, for which one would
# train without it, too.
#
# Conclusion
# ----------
#
# ``with_auxiliary`` turns a TorchRL loss into one with a trunk and auxiliaries, and leaves the rest to TorchRL: target
# networks, value estimators and keys are where they were.
#
# What to try next:
#
# * ``TripletContrastiveLoss`` in CURL's place, and a ``TripletReplay`` on the buffer (second and third tutorial);
# * ``with_auxiliary(REDQLoss)``, ``CrossQLoss``, ``A2CLoss``, ``KLPENPPOLoss``, ``DiscreteSACLoss``: these are
#   tested. ``DDPGLoss`` is refused, since nothing of it would train the trunk. Of any other loss, check who trains
#   what, as above;
# * ``gaze-train contrast=curl``, CURL with any of the presets.
#
# Further reading
# ---------------
#
# * Laskin et al., *CURL*, `arXiv 2004.04136 <https://arxiv.org/abs/2004.04136>`__
# * Fujimoto et al., *TD3*, `arXiv 1802.09477 <https://arxiv.org/abs/1802.09477>`__
# * ``ARCHITECTURE.md``, "Decisions worth knowing": why this is a mixin and not a wrapper.
