"""A dry run: everything a run does, once and small, in seconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.training.experiment import run_experiment
from gaze_torchrl.training.validate import validate

__all__ = ["dry_run", "shortened"]

# Steps of an episode and of a rollout: labels are known within it.
EPISODE, ROLLOUT = 4, 8


def dry_run(config: DictConfig) -> float:
    """Collect, learn, evaluate, save, draw: two rollouts of the configured parts, of which nothing is kept.

    Args:
        config: composed, validated and resolved.

    Returns:
        The seconds it took.

    Raises:
        Whatever a run would raise.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(shortened(config, Path(folder) / "run"))
    return time.perf_counter() - start


def shortened(config: DictConfig, folder: Path) -> DictConfig:
    """A configuration of the same parts that takes seconds; loggers other than CSV are left out.

    Args:
        config: the whole configuration, resolved.
        folder: where the run goes.
    """
    short = config.copy()
    OmegaConf.set_struct(short, False)
    shares = config.collector.get("num_collectors", 1)
    lanes = min(config.env.num_envs, shares * -(-4 // shares))  # about four, and as many for each process
    frames = lanes * ROLLOUT
    short.run_dir, short.total_frames, short.logger = str(folder), 2 * frames, {"_target_": None}
    short.env.num_envs = lanes
    if "horizon" in short.env:
        # ManiSkill's horizon counts the steps that are skipped, too.
        short.env.horizon = EPISODE * (short.env.frame_skip if config.task.env == "maniskill" else 1)
    short.collector.frames_per_batch = frames
    short.bank.update(capacity=2 * frames, min_steps=frames, mine_every=1)
    short.evaluation.update(every=frames, episodes=2, video_episodes=min(config.evaluation.video_episodes, 1))
    short.checkpoint.every = frames
    if short.contrast.get("pretrain_frames"):
        short.contrast.pretrain_frames = frames  # the contrast alone, then both
    loss = short.loss
    loss.minibatch = frames // 2
    if "epochs" in loss:
        loss.epochs = 1
    if "replay" in loss:
        loss.update(warmup=0, updates_per_frame=2 / frames)
        loss.replay.update(capacity=4 * frames, spare=1.0)
    OmegaConf.set_struct(short, True)
    validate(short)
    return short
