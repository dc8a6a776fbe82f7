"""
Where does the agent look?
==========================
**Author**: the gaze_torchrl developers

An agent that sees a whole picture is free to react to anything in it. An agent with a *gaze* must choose: what lies
outside its foveae does not reach the policy. This tutorial trains such an agent, evaluates it, and looks at where it
looks. Nobody tells it what a target is; rewards do.

What you will learn:

- How a run is configured and started from Python, by the same names as on the command line;
- what a run leaves behind, and how to read its curves;
- how to load a trained agent, let it act, and draw its gaze;
- how to test it where it was not trained.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU and one to two minutes;
- to know what a policy and a return are. No TorchRL is needed yet.
"""

######################################################################
# The world
# ---------
#
# ``ClutterEnv`` is a small world with a white disk, which the agent moves, a red disk, to which it should go and
# where it should stay, and distractors of any other colour. The policy gets pixels and the agent's own position.
# Where the target is, only the pixels tell.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from omegaconf import OmegaConf

from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.checkpoints import load_agent
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.evaluation import episode_metrics, rollout_episodes
from gaze_torchrl.training.experiment import evaluate_suite, run_experiment
from gaze_torchrl.training.overlay import draw_gaze

env = ClutterEnv("easy", num_envs=6, image_size=48, seed=0)
first = env.reset()

figure, axes = plt.subplots(1, 6, figsize=(12, 2.2), layout="constrained")
for ax, pixels in zip(axes, first["pixels"], strict=True):
    ax.imshow(pixels.movedim(0, -1))
    ax.axis("off")
figure.suptitle("Six episodes of the level 'easy'")
plt.show()

######################################################################
# The configuration
# -----------------
#
# ``compose_config`` takes what ``gaze-train`` takes. Every part is a choice that can be swapped: the defaults are the
# full method, and ``gaze-list`` shows the alternatives. Here pictures are 48 pixels wide instead of 64 and the level
# is the easiest, so that a minute is enough.

folder = Path(tempfile.mkdtemp()) / "run"
config = compose_config(
    [
        "task=easy",
        "env.image_size=48",
        "total_frames=32_768",
        "evaluation.every=4_096",
        "threads=1",  # faster than two for networks as small as these
        f"run_dir={folder}",
    ]
)
print(OmegaConf.to_yaml(config.gaze))
print(OmegaConf.to_yaml(config.miner))

######################################################################
# The gaze has eight foveae. Each is a Gaussian whose place and width are the moments of a saliency map that a small
# network draws from the features. The miner says what the contrastive loss learns from: steps that look alike and
# have returns in the lowest and the highest third.
#
# Training
# --------
#
# One call trains, evaluates every 4,096 frames on 64 fixed episodes, and writes everything into the run folder.

run_experiment(config)
print(sorted(path.name for path in folder.iterdir()))

######################################################################
# The same from a shell::
#
#    gaze-train task=easy env.image_size=48 total_frames=32_768 evaluation.every=4_096 threads=1
#
# The curves
# ----------
#
# ``evaluation.csv`` has a row per evaluation. ``gaze_distance`` is the way from the target to the nearest fovea, in
# units in which the picture is 2 wide. Eight foveae that point anywhere are near by chance, too: compare the curve
# with its own beginning, not with zero.

curve = np.genfromtxt(folder / "evaluation.csv", delimiter=",", names=True)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(curve["frames"] / 1000, curve["success_at_end"])
left.set(title="success at the end of an episode", xlabel="thousand frames", ylim=(-0.03, 1.03))
right.plot(curve["frames"] / 1000, curve["gaze_distance"], color="tab:orange")
right.set(title="gaze: distance to the target", xlabel="thousand frames", ylim=(0, None))
plt.show()

print(f"success: {curve['success_at_end'][0]:.2f} -> {curve['success_at_end'][-1]:.2f}")
print(f"gaze distance: {curve['gaze_distance'][0]:.2f} -> {curve['gaze_distance'][-1]:.2f}")

######################################################################
# The gaze comes first: it finds the target while success is still near zero, since the policy cannot go to a place that
# does not reach it.
#
# Before and after
# ----------------
#
# A checkpoint holds weights only. The agent is built from the configuration, as the run itself did, and then filled.
# ``rollout_episodes`` acts without noise, and equal seeds give equal episodes, whoever acts.

judge = build_env(config, num_envs=64, seed=config.evaluation.seed)
torch.manual_seed(config.seed)
untrained, trained = build_agent(config, judge), build_agent(config, judge)
load_agent(folder, trained)

episodes, metrics = {}, {}
for name, agent in {"untrained": untrained, "trained": trained}.items():
    episodes[name] = rollout_episodes(judge, agent.watched_policy(), config.evaluation.seed)
    metrics[name] = episode_metrics(episodes[name], agent.geometry)
    print(f"{name:10}", {key: round(value, 2) for key, value in metrics[name].items()})

######################################################################
# ``draw_gaze`` shows a frame twice: as it is, and with the gaze. The heat map is where attention lies, each ellipse a
# fovea at one sigma. The wider a fovea, the fainter its ellipse, since it sees much and hence little.

success = episodes["trained"]["next", "success"][:, -1, 0]
lane = int(success.nonzero()[0])  # the first episode that ends well
shown = (0, 3, 6, 12)
figure, axes = plt.subplots(2, len(shown), figsize=(13, 3.8), layout="constrained")
for row, (name, steps) in zip(axes, episodes.items(), strict=True):
    for ax, t in zip(row, shown, strict=True):
        ax.imshow(draw_gaze(steps[lane, t]["pixels"], steps[lane, t]["gaze"], trained.geometry))
        ax.set_title(f"{name}, step {t}")
        ax.axis("off")
plt.show()

######################################################################
# Both rows begin with the same picture. Untrained, all eight foveae are as wide as the picture. Trained, the narrow
# ones lie on the red disk, and the white one moves there. Not all of the eight are needed: some have stayed wide, and
# see little. ``gaze.gif`` in the run folder shows four whole episodes like this.
#
# Elsewhere
# ---------
#
# A *suite* is a list of conditions. This one has every level of clutter: more distractors, some of which move, rings
# in the target's colour, and ``shift``, with shapes and backgrounds that are kept for evaluation.

suite_folder, levels = evaluate_suite(folder, "clutter_levels")
for level, result in levels.items():
    print(f"{level:12} success {result['success_at_end']:.2f}, gaze distance {result['gaze_distance']:.2f}")

######################################################################
# The agent was trained for a minute, on few and resting distractors, and the table says what that is worth elsewhere.
#
# Conclusion
# ----------
#
# We have trained an agent with a gaze, read its curves, looked through its eyes before and after, and tested it where
# it was not trained. One seed shows how to look, not how good a method is: for that, see the results in the README,
# with several.
#
# What to try next:
#
# * ``gaze=none contrast=none``, the plain CNN, with the same budget;
# * ``gaze=foveal``, a single fovea, or ``contrast=none``, a gaze that learns from the RL gradient alone;
# * ``gaze-view RUN``: one page with curves, episodes and triplets to click through;
# * ``make demo``: this tutorial with more clutter, larger pictures and three to five minutes.
#
# Further reading
# ---------------
#
# * ``docs/outputs.md``: what the numbers mean;
# * ``docs/clutter.md``: the rules of this world;
# * *Gaze on the Prize: Shaping Visual Attention with Return-Guided Contrastive Learning*,
#   `arXiv 2510.08442 <https://arxiv.org/abs/2510.08442>`__: the idea that this package builds on.
