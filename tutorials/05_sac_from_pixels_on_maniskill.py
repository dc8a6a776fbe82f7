"""
SAC from pixels on ManiSkill3
=============================
**Author**: the gaze_torchrl developers

`ManiSkill3 <https://github.com/haosulab/ManiSkill>`__ has robots that push, pull and pick things. Here a Panda arm
shall push a cube to a goal among objects that do not matter, seen by a camera, on a machine without a GPU.

What you will learn:

- How ManiSkill's tasks become batched TorchRL environments, and what the policy may know;
- how to put clutter on the table, and what low-polygon drawing saves;
- how to train SAC with a gaze on it, and to look at the result.

Prerequisites:

- ``pip install "gaze_torchrl[maniskill]"``; a CPU and two minutes;
- a Vulkan driver: on a machine without a GPU, Mesa 24.3 or newer (``docs/maniskill.md`` says how to get it);
- the first tutorial, for configurations and run folders.
"""

import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from torchrl.envs.utils import check_env_specs

from gaze_torchrl.envs import ManiSkillEnv
from gaze_torchrl.envs.rendering import RendererNotFound, require_renderer
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import run_experiment

######################################################################
# Can this machine draw?
# ----------------------
#
# SAPIEN, ManiSkill's engine, draws through Vulkan, also on a CPU. The package looks before SAPIEN does, and says what
# is missing. Without a renderer this tutorial ends here.

try:
    print(require_renderer())
except RendererNotFound as error:
    sys.exit(f"Skipped: {error}")

######################################################################
# The environment
# ---------------
#
# Scenes are simulated and drawn one by one, in this process or in several (``num_workers``), and are one batch to
# TorchRL.

env = ManiSkillEnv("PushCube-v1", num_envs=2, image_size=64, distractors=8)
check_env_specs(env)
env.set_seed(0)
rollout = env.rollout(4)
print({key: tuple(value.shape) for key, value in rollout.items() if key not in ("next", "truth")})

######################################################################
# ``proprio`` is what the robot feels: joint positions, joint velocities and the tool's pose. ManiSkill's own
# observations hold more, such as the goal's place, which is the cube's plus a constant: a policy that knows it need
# not look. It is left out. ``truth`` says where the cube is in the picture. It is for measuring the gaze; no
# component reads it.
#
# Low-polygon drawing
# -------------------
#
# On a software renderer a picture costs what its triangles cost, and nearly all of them belong to the robot. By
# default it is drawn with a twentieth of them. Physics and rewards do not change; let us look at pictures and at
# time.

looks = {
    "low-polygon": env,
    "as ManiSkill draws it": ManiSkillEnv("PushCube-v1", num_envs=2, distractors=8, low_poly=False),
}
first, seconds, totals = {}, {}, {}


def still(tensordict):
    """Do nothing."""
    return tensordict.set("action", env.action_spec.zero())


for name, one in looks.items():
    one.set_seed(0)
    first[name] = one.reset()
    start = time.perf_counter()
    totals[name] = one.rollout(20, still)["next", "reward"].sum().item()
    seconds[name] = (time.perf_counter() - start) / 40
    print(f"{name}: {1000 * seconds[name]:.0f} ms per step and scene, rewards add up to {totals[name]:.6f}")
    one.close()

figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for ax, (name, scene) in zip(axes, [(name, scene) for name in first for scene in (0, 1)], strict=True):
    ax.imshow(first[name]["pixels"][scene].movedim(0, -1))
    ax.set(title=name, xticks=[], yticks=[])
plt.show()

######################################################################
# Training
# --------
#
# The preset ``sac_maniskill`` has the hyper-parameters of ManiSkill's own SAC script, as far as a CPU allows. Its
# 200,000 frames take an hour and a half or two; ours are 1,200, with smaller minibatches and an earlier start. That is
# enough to see every part at work, and *far too short to learn the task*.

folder = Path(tempfile.mkdtemp()) / "run"
config = compose_config(
    [
        "experiment=sac_maniskill",
        "task=PushCube-v1",
        "env.distractors=8",
        "env.num_envs=8",
        "total_frames=1_200",
        "collector.frames_per_batch=400",
        "loss.warmup=400",
        "loss.minibatch=64",
        "loss.updates_per_frame=0.125",
        "bank.min_steps=400",
        "bank.mine_every=400",
        "evaluation.every=1_200",
        "evaluation.episodes=2",
        "evaluation.video_episodes=2",
        "threads=1",
        f"run_dir={folder}",
    ]
)
run_experiment(config)

######################################################################
# From a shell, several processes share the scenes::
#
#    gaze-train experiment=sac_maniskill task=PushCube-v1 env.distractors=8 env.num_workers=2
#
# What happened
# -------------
#
# A row per rollout: the first was collected by the untrained policy. Every one was followed by fifty gradient steps,
# and by a mining. As the task's label bootstraps with the critic, steps of unfinished episodes have one, too.

metrics = np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True)
for name in ["frames", "reward", "loss_qvalue", "loss_contrast", "mined_triplets", "gaze_distance"]:
    print(f"{name:15}", np.round(metrics[name], 3))

######################################################################
# The video
# ---------
#
# ``gaze.gif`` shows evaluation episodes: left what the agent sees, right where it looks. Three of its frames:

video = Image.open(folder / "gaze.gif")
figure, axes = plt.subplots(3, 1, figsize=(8, 6.4), layout="constrained")
for ax, t in zip(axes, (0, 24, 49), strict=True):
    video.seek(t)
    ax.imshow(video.convert("RGB"))
    ax.set(title=f"step {t}", xticks=[], yticks=[])
plt.show()

######################################################################
# The foveae are still as wide as the picture, as they are when untrained: a hundred and fifty gradient steps do not
# narrow them, and ``gaze_distance`` says no more than that one of eight middles is near the cube by chance.
#
# Conclusion
# ----------
#
# ManiSkill's tasks are TorchRL environments like any other here: the same gaze, the same buffer, the same loss. What
# they cost is time.
#
# What to try next:
#
# * the whole preset, and ``gaze-eval RUN suite=maniskill_shift`` on what it learnt: other colours, lights and cameras;
# * ``env.distractor_colors=task``, distractors in the cube's colours;
# * ``experiment=ppo_maniskill``.
#
# Further reading
# ---------------
#
# * ``docs/maniskill.md``: every option, the tasks, and what the policy may know;
# * Tao et al., *ManiSkill3*, `arXiv 2410.00425 <https://arxiv.org/abs/2410.00425>`__
# * Haarnoja et al., *Soft Actor-Critic*, `arXiv 1801.01290 <https://arxiv.org/abs/1801.01290>`__
