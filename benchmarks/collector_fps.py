"""Frames per second of collecting on ManiSkill: one process, two for the scenes, two for scenes and policy.

    python benchmarks/collector_fps.py [--rollouts 6] [--scenes 32]

Wall time: it wants two cores that nobody else uses. The arms take turns.
"""

import argparse
import time
from collections.abc import Iterator

import torch

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.collecting import build_collector, rollouts
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.loop import build_learner

ARMS = {
    "one process": [],
    "env.num_workers=2": ["env.num_workers=2"],
    "collector=process, two of them": ["collector=process"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = [f"env.num_envs={arguments.scenes}", f"collector.frames_per_batch={arguments.scenes * 50}"]
    arms = {name: collect([*size, *overrides]) for name, overrides in ARMS.items()}
    frames, seconds = 0, dict.fromkeys(arms, 0.0)
    for i in range(arguments.rollouts + 1):
        for name, arm in arms.items():
            start = time.perf_counter()
            count = next(arm)
            if i > 0:  # the first starts the processes
                seconds[name] += time.perf_counter() - start
        frames += count * (i > 0)
    for name, spent in seconds.items():
        print(f"{name:34}{frames / spent:8.0f} frames/s{seconds['one process'] / spent:8.2f}")


def collect(overrides: list[str]) -> Iterator[int]:
    """Rollouts of whole episodes by an untrained agent of SAC's preset; yields the frames of each."""
    config = compose_config(["experiment=sac_maniskill", "task=PushCube-v1", *overrides])
    shared = "num_collectors" in config.collector
    env = build_env(config, 1 if shared else config.env.num_envs, 0)
    learner = build_learner(config, build_agent(config, env), env)
    collector = build_collector(config, learner.policy(), None if shared else env, 0)
    for rollout in rollouts(collector, config.env.num_envs):
        yield rollout.numel()


if __name__ == "__main__":
    main()
