"""A long walk through ManiSkill: does memory, do files, do threads grow?

    python benchmarks/maniskill_soak.py [--steps 100000] [--workers 2]

Steps scenes with random actions, episodes beginning anew as they end, and prints what the process and its workers hold.
Fails if, after the first tenth, memory has grown by more than 2 % or anything else at all.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_workers import Workers

SCENES = 16


def held(pids: list[int]) -> dict[str, float]:
    """Private memory in MB, open files and threads of some processes, together."""
    memory = files = threads = 0.0
    for pid in pids:
        folder = Path("/proc", str(pid))
        rollup = (folder / "smaps_rollup").read_text().splitlines()
        memory += sum(int(line.split()[1]) for line in rollup if line.startswith("Private")) / 1024
        files += len(os.listdir(folder / "fd"))
        threads += len(os.listdir(folder / "task"))
    return {"memory": memory, "files": files, "threads": threads}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000, help="frames, over all scenes")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--task", default="PushCube-v1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    env = ManiSkillEnv(arguments.task, num_envs=SCENES, num_workers=arguments.workers, distractors=4)
    pids = [os.getpid()]
    if isinstance(env.simulation, Workers):
        pids += [process.pid for process in env.simulation._processes]
    td, history = env.reset(), []
    rounds = arguments.steps // SCENES
    for i in range(1, rounds + 1):
        _, td = env.step_and_maybe_reset(env.rand_action(td))
        if i % (rounds // 10) == 0:
            history.append(held(pids))
            print(
                f"{i * SCENES:7} steps: " + ", ".join(f"{key} {value:.0f}" for key, value in history[-1].items()),
                flush=True,
            )
    env.close()
    first, last = history[0], history[-1]
    grown = [key for key, value in last.items() if value > first[key] * (1.02 if key == "memory" else 1)]
    sys.exit(f"grown: {grown}" if grown else None)


if __name__ == "__main__":
    main()
