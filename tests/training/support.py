"""A run small enough for tests: every part of the real one, in seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

TINY_COMMON = [
    "total_frames=256",
    "threads=1",
    "env.num_envs=8",
    "env.image_size=32",
    "collector.frames_per_batch=128",
    "loss.minibatch=64",
    "bank.min_steps=64",
    "evaluation.every=128",
    "evaluation.episodes=4",
    "evaluation.video_episodes=2",
]
TINY = [*TINY_COMMON, "loss.epochs=1"]
TINY_SAC = [*TINY_COMMON, "loss=sac", "loss.warmup=128", "loss.updates_per_frame=0.05", "loss.replay.capacity=512"]
LONG = ["total_frames=1024", "checkpoint.every=256", "evaluation.every=384", "evaluation.video_episodes=0"]


def command(name: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run one of the package's commands as a user would, in a process of its own."""
    code = f"import sys; from gaze_torchrl.cli import {name}; sys.argv[0] = {name!r}; {name}()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=False, **options
    )


def tiny_run(folder: Path, *overrides: str) -> Path:
    """Train a tiny run in this process."""
    from gaze_torchrl.training.config import compose_config
    from gaze_torchrl.training.experiment import run_experiment

    config = compose_config([*(TINY_SAC if "loss=sac" in overrides else TINY), *overrides])
    config.run_dir = str(folder)
    return run_experiment(config)


class Stopped(Exception):
    """In place of a crash."""


def stop_at(monkeypatch, frames):
    """Let the run fail once it has learnt from so many frames, before it logs them."""
    from gaze_torchrl.training.run_folder import RunFolder

    log = RunFolder.log

    def failing(self, name, row):
        if row["frames"] >= frames and name == "metrics":
            raise Stopped
        log(self, name, row)

    monkeypatch.setattr(RunFolder, "log", failing)


def stopped_run(folder, monkeypatch, *overrides, frames=700):
    with monkeypatch.context() as patch:
        stop_at(patch, frames)
        with pytest.raises(Stopped):
            tiny_run(folder, *overrides, *LONG)
    return folder


def one_rollout(config):
    """An agent, its learner, and the first rollout [N, T] that it makes."""
    from torchrl.collectors import Collector

    from gaze_torchrl.training.agent import build_agent, build_env
    from gaze_torchrl.training.loop import build_learner

    env = build_env(config, config.env.num_envs, 0)
    agent = build_agent(config, env)
    learner = build_learner(config, agent, env)
    frames = config.collector.frames_per_batch
    collector = Collector(env, learner.policy(), frames_per_batch=frames, total_frames=frames)
    rollout = next(iter(collector)).clone()
    collector.shutdown()
    return agent, learner, rollout


def one_update(config, count=1):
    """Learn from a rollout (or several): the parameters before and after, the terms of the loss at the last one."""
    from gaze_torchrl.training.agent import build_agent, build_env
    from gaze_torchrl.training.collecting import build_collector, rollouts
    from gaze_torchrl.training.loop import build_learner

    env = build_env(config, config.env.num_envs, 0)
    learner = build_learner(config, build_agent(config, env), env)
    collector = build_collector(config, learner.policy(), None if "num_collectors" in config.collector else env, 0)
    before = [parameter.detach().clone() for parameter in learner.loss.parameters()]
    batches = rollouts(collector, config.env.num_envs)
    losses = [learner.update(next(batches)) for _ in range(count)][-1]
    collector.shutdown()
    return before, list(learner.loss.parameters()), losses
