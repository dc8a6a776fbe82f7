"""
From a laptop to a cluster
==========================
**Author**: the gaze_torchrl developers

The same command grows by configuration alone: collectors in several processes, in a Ray cluster, sweeps on Slurm.
What grows breaks more often, so that this tutorial begins with the other half: a run that is killed, and goes on.

What you will learn:

- How to go on with a run that was stopped or killed, and what then is equal;
- how to collect in several processes, and what then is not;
- the commands for sweeps, Slurm and Ray.

Prerequisites:

- ``pip install gaze_torchrl``; a CPU with two cores and about two minutes;
- the first tutorial, for run folders.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

work = Path(tempfile.mkdtemp())

######################################################################
# A small run
# -----------
#
# Ten rollouts, and an evaluation and a saved state after every other. Here Python takes the place of a shell: it starts
# ``gaze-train``, and can kill it.

small = (
    "task=easy env.image_size=32 env.num_envs=16 total_frames=5_120 collector.frames_per_batch=512 bank.min_steps=512 "
    "evaluation.every=1_024 evaluation.episodes=4 evaluation.video_episodes=0 threads=1"
)


def train(arguments):
    """Start gaze-train."""
    command = [str(Path(sys.executable).with_name("gaze-train")), *arguments.split()]
    return subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(run):
    """Wait for gaze-train, and return what it says at the end."""
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    return output


print(finish(train(f"{small} run_dir=whole")))

######################################################################
# Killed
# ------
#
# The same again, in another folder. As soon as a second state is saved we kill it: ``kill -9``, without a chance to say
# goodbye.


def stop(run, folder, how):
    """Send a signal to a run that has saved two states; return its last words and the frames of the newest state."""
    states = work / folder / "state"
    while len(list(states.glob("checkpoint-*.torchrl"))) < 2:
        assert run.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.02)
    run.send_signal(how)
    _, errors = run.communicate()
    newest = max(states.glob("checkpoint-*.torchrl"))
    return errors.splitlines()[-1], int(newest.stem.split("-")[1])


_, killed_at = stop(train(f"{small} run_dir=killed"), "killed", signal.SIGKILL)
print(f"killed after {killed_at} frames:", sorted(path.name for path in (work / "killed").iterdir()))

######################################################################
# And it goes on, from the newest state that is whole; one that was torn by the kill would be left out.

finish(train("resume=killed"))
same = {
    name: (work / "killed" / name).read_bytes() == (work / "whole" / name).read_bytes()
    for name in ["metrics.csv", "evaluation.csv"]
}
print("equal to those of the run that was never killed, byte for byte:", same)

######################################################################
# A state holds networks, optimizer, buffer, bank, mined triplets, counters, every random generator, and the episodes
# in progress. The last of these only ``ClutterEnv`` can restore: with ManiSkill, Gymnasium, Atari and dm_control new
# episodes begin, and all the rest goes on.
#
# Several processes
# -----------------
#
# ``collector=process`` shares out the environments among processes, each with the policy. Rollouts are other ones
# than those of one process, but equal seeds give equal rollouts. We train twice, and stop the second run by what
# Ctrl-C sends.

processes = f"{small} collector=process"
finish(train(f"{processes} run_dir=processes"))
last_words, stopped_at = stop(train(f"{processes} run_dir=stopped"), "stopped", signal.SIGINT)
print(last_words)
finish(train("resume=stopped"))

######################################################################
# Episodes in other processes are not part of the state, so that new ones begin after a resume, with seeds that the
# run has not used. Until then the two runs are equal; after that they are two runs of the same learner.

one, other = (
    np.genfromtxt(work / name / "metrics.csv", delimiter=",", names=True) for name in ("processes", "stopped")
)
before = one["frames"] <= stopped_at
print(f"until {stopped_at} frames equal:", (one["reward"][before] == other["reward"][before]).all())
print("rewards, never stopped:", one["reward"].round(4))
print("rewards, resumed:      ", other["reward"].round(4))

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(one["frames"], one["reward"], label="never stopped")
ax.plot(other["frames"], other["reward"], "--", label="stopped and resumed")
ax.axvline(stopped_at, color="gray", linewidth=1)
ax.set(title="collector=process", xlabel="frames", ylabel="reward")
ax.legend()
plt.show()

######################################################################
# On two cores and in a world as cheap as this, processes cost more than they bring: look at ``collect`` in
# ``timings.csv``. They are for environments that are slow.

seconds = {
    name: np.genfromtxt(work / name / "timings.csv", delimiter=",", names=True)["collect"][1:].mean()
    for name in ("whole", "processes")
}
print({name: f"{1000 * value:.0f} ms per rollout" for name, value in seconds.items()})

######################################################################
# Sweeps
# ------
#
# ``--multirun`` runs the points of a grid. A launcher decides where: side by side on this machine, or as jobs of Slurm
# (``pip install "gaze_torchrl[sweep]"``):
#
# .. code-block:: bash
#
#    gaze-train --multirun seed=1,2,3 miner=quantile,shuffled_returns threads=1 \
#        hydra/launcher=joblib hydra.launcher.n_jobs=2
#    gaze-train --multirun seed=1,2,3 hydra/launcher=submitit_slurm hydra.launcher.partition=gpu \
#        hydra.launcher.gpus_per_node=1 hydra.launcher.timeout_min=240
#
# Each run has a folder of its own, and goes on by ``gaze-train resume=runs/sweep/DATE/1``. ``docs/scale.md`` has the
# three lines of a Slurm script that is started anew after a preemption.
#
# Several machines
# ----------------
#
# With Ray (``pip install "gaze_torchrl[ray]"``) the collectors live on other machines; the learner, the buffer and
# the bank stay where ``gaze-train`` runs. Actors get the newest weights before each rollout.
#
# .. code-block:: bash
#
#    ray start --head                       # on one machine
#    ray start --address=HEAD:6379          # on the others
#    RAY_ADDRESS=auto gaze-train experiment=ppo_maniskill collector=ray collector.num_collectors=8 \
#        env.num_envs=64 collector.frames_per_batch=6400 loss.minibatch=800
#
# If an actor or a process dies, the run ends with an error that names it, and ``gaze-train resume=RUN`` goes on:
# nothing is silently missing from a rollout.
#
# Conclusion
# ----------
#
# A run on one machine can be killed at any moment and goes on exactly. Its collectors can move to other processes and
# machines by one word; then it goes on with new episodes.
#
# Further reading
# ---------------
#
# * ``docs/scale.md``: all of this, what it brings, and what is not here;
# * ``docs/outputs.md``: what may change when a run goes on.
