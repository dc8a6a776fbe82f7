"""
Write your own gaze and your own miner
======================================
**Author**: the gaze_torchrl developers

Every part of gaze_torchrl is a registered class, and yours can be one without a fork: decorate it, name its module in
an entry point, and ``gaze-train`` knows it by its name. The folder ``tutorials/my_gaze`` is such a plug-in, to be
copied. Here we read it, try its parts, and run an ablation with them from the command line.

What you will learn:

- What a gaze and a miner must do, and how short they can be;
- how to try a component by hand;
- how a package makes it a choice of ``gaze-train`` and ``gaze-list``;
- how to compare two variants with one command.

Prerequisites:

- ``pip install gaze_torchrl hatchling``; the folder ``my_gaze`` beside this script; a CPU and one to two minutes;
- the first tutorial, for configurations and run folders.
"""

import importlib
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from gaze_torchrl.registry import lookup
from gaze_torchrl.training.config import compose_config

here, work = Path(sys.argv[0]).resolve().parent, Path(tempfile.mkdtemp())

######################################################################
# A package
# ---------
#
# Usually you would ``pip install -e tutorials/my_gaze``. To leave your environment alone, we install into a folder of
# its own. What makes a package a plug-in is the last entry of its ``pyproject.toml``:

install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
subprocess.run([*install, str(work / "site"), str(here / "my_gaze")], check=True)
print((here / "my_gaze" / "pyproject.toml").read_text())

######################################################################
# A gaze
# ------
#
# A gaze is an ``nn.Module`` that maps features to a tuple, whose parts ``out_names`` names: a map of attention first
# and, if it has a location, its mean, covariance and foveae. Ours is a stripe that moves up and down.

sys.path.insert(0, str(work / "site"))
my_gaze = importlib.import_module("my_gaze")
print(inspect.getsource(my_gaze.StripeGaze))

######################################################################
# What a constructor takes from the data (here ``in_channels``) is filled in by the builder, the rest are options. By
# hand:

torch.manual_seed(0)
features = torch.randn(4, 32, 12, 12) + 2 * torch.randn(4, 32, 1, 1)
with torch.no_grad():
    (attention,) = my_gaze.StripeGaze(in_channels=32)(features)

figure, axes = plt.subplots(1, 4, figsize=(8, 2.2), layout="constrained")
for ax, one in zip(axes, attention, strict=True):
    ax.imshow(one, vmin=0, vmax=1)
    ax.axis("off")
figure.suptitle("Four images, four stripes")
plt.show()

######################################################################
# A miner
# -------
#
# A miner gets keys, labels and where each step comes from, and returns triplets. The search for look-alikes is the
# same for most rules, so that a subclass of ``NeighborMiner`` says two things only: what is compared (``score``), and
# which neighbours could be positives and which negatives (``relate``).

print(inspect.getsource(my_gaze.EndsMiner))

######################################################################
# Ten steps of ten episodes, worth 0 to 9, all near enough to be neighbours of each other:

labels = torch.arange(10.0)
found = my_gaze.EndsMiner(anchors=10, neighbors=9)(
    keys=torch.randn(10, 8),
    labels=labels,
    known=torch.ones(10, dtype=torch.bool),
    episode=torch.arange(10),
    step=torch.zeros(10, dtype=torch.int64),
)
for anchor, positive, negative, valid in zip(*found, strict=True):
    print(
        f"anchor {labels[anchor]:.0f}, positive {labels[positive]:.0f}, negative {labels[negative]:.0f}, valid {valid}"
    )

######################################################################
# Positives are worth 8 or 9, negatives 0 or 1.
#
# Choices like ours
# -----------------
#
# ``@register("gaze", "stripe")`` has put the class into the registry, under a group and a name:

print(lookup("miner", "ends").node)
config = compose_config(["gaze=stripe", "gaze.sigma=0.2", "miner=ends"])
print(config.gaze, config.readout, config.miner, sep="\n")

######################################################################
# The miner has no YAML file: its fields are those of the signature. The gaze has one,
# ``my_gaze/configs/gaze/stripe.yaml``, since its choice must bring a readout along that reads a whole map; the
# default one reads foveae, which a stripe does not have.
#
# On the command line the plug-in is found by its entry point:


def shell(command):
    """Run one of the package's commands, with the plug-in on the path, and return what it prints."""
    name, *arguments = command.split()
    paths = os.pathsep.join([str(work / "site"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [str(Path(sys.executable).with_name(name)), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=work,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return run.stdout


listing = shell("gaze-list ends")
print(listing)

######################################################################
# The ablation
# ------------
#
# Hydra's ``--multirun`` trains every combination, each in a folder of its own. Here two gazes share the miner, the
# seed and all the rest.

variants = ["multi_foveal", "stripe"]
shell(
    f"gaze-train --multirun gaze={','.join(variants)} miner=ends task=easy env.image_size=32 total_frames=24_576 "
    "evaluation.every=24_576 evaluation.video_episodes=0 threads=1 hydra.sweep.dir=sweep"
)
metrics = {
    name: np.genfromtxt(work / "sweep" / str(number) / "metrics.csv", delimiter=",", names=True)
    for number, name in enumerate(variants)
}

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for name, run in metrics.items():
    ax.plot(run["frames"] / 1000, run["reward"], label=f"gaze={name}")
    print(f"gaze={name}: reward {run['reward'][-1]:.3f}, triplets at the last mining {run['mined_triplets'][-1]:.0f}")
ax.set(title="reward per step", xlabel="thousand frames")
ax.legend()
plt.show()

######################################################################
# Both train, and the miner of the plug-in finds triplets for both. The foveae, which can point at a disk, are ahead
# of the stripe, which lets a whole band of the picture through. One seed and 25 thousand frames are too little to say
# by how much: for that, sweep ``seed=1,2,3`` as well and give them more time.
#
# Conclusion
# ----------
#
# A component is a class with a decorator; a plug-in is a package with an entry point; an ablation is one command.
# Nothing of gaze_torchrl had to be touched.
#
# What to try next:
#
# * copy ``tutorials/my_gaze``, rename it, and replace a class by yours;
# * ``gaze-train dry_run=true gaze=stripe miner=ends``: whether what was chosen works together, in seconds;
# * give the stripe ``out_names = ("map", "mean", ...)``, and its distance to the target will be measured.
#
# Further reading
# ---------------
#
# * ``ARCHITECTURE.md``, "How to add a component": what each kind of component must do;
# * the eighth tutorial, for sweeps in parallel.
