"""A run small enough for tests: every part of the real one, in seconds."""

import subprocess
import sys
from pathlib import Path

TINY = [
    "total_frames=256",
    "threads=1",
    "env.num_envs=8",
    "env.image_size=32",
    "collector.frames_per_batch=128",
    "loss.minibatch=64",
    "loss.epochs=1",
    "miner.min_steps=64",
    "evaluation.every=128",
    "evaluation.episodes=4",
    "evaluation.video_episodes=2",
]


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

    config = compose_config([*TINY, *overrides])
    config.run_dir = str(folder)
    return run_experiment(config)
