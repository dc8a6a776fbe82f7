"""Where the time of the training loops goes: frames per second of variants, and the parts of a loop.

    python benchmarks/loop_cost.py [--rounds 10] [--threads 1]

Loops take turns, rollout by rollout, in one process: the full method, the gaze without contrast, the plain CNN, and for
PPO a loop in plain PyTorch with the network, data and environment of the plain CNN (reference_ppo.py). Then each loop
of ours by its parts. CPU time of all threads, which depends less than wall time on what else the machine does.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from omegaconf import DictConfig
from reference_ppo import reference_ppo

from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.loop import build_learner, rollout_metrics

VARIANTS = {
    "full": [],
    "gaze without contrast": ["contrast=none"],
    "plain CNN": ["gaze=none", "contrast=none"],
}
PRESETS = {
    "PPO": ["experiment=ppo_clutter"],
    "SAC": ["experiment=sac_clutter", "loss.warmup=1024", "loss.replay.capacity=20_000"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rollouts of each loop that are measured")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for preset, overrides in PRESETS.items():
        loops = {}
        parts: dict[str, dict[str, float]] = {}
        for compiled in (False, True):
            for name, variant in VARIANTS.items():
                config = compose_config([*overrides, *variant, f"compile={compiled}".lower(), "seed=1"])
                label = name + ", compiled" * compiled
                parts[label] = defaultdict(float)
                loops[label] = ours(config, parts[label])
        if preset == "PPO":
            loops["plain PyTorch"] = reference_ppo(compose_config([*overrides, *VARIANTS["plain CNN"]]))
        report(preset, measure(loops, arguments.rounds), parts, arguments.rounds)


def ours(config: DictConfig, spent: dict[str, float]) -> Iterator[int]:
    """A loop of ours; yields the frames of each rollout once it has been learnt from."""
    torch.manual_seed(config.seed)
    env = build_env(config, config.env.num_envs, config.seed)
    agent = build_agent(config, env)
    learner = build_learner(config, agent, env)
    collector = assemble(config.collector, "collector", create_env_fn=env, policy=learner.policy(), total_frames=-1)
    watch(learner, env, spent)
    for rollout in collector:
        learner.update(rollout)
        rollout_metrics(rollout, agent)
        learner.statistics()
        yield rollout.numel()


def watch(learner, env, spent: dict[str, float]) -> None:
    """Time the parts of a loop from here on."""

    def timed(call: Callable, name: str) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - start

        return run

    env._step = timed(env._step, "environment")
    learner.buffer.sample = timed(learner.buffer.sample, "samples, with triplets")
    learner.buffer.extend = timed(learner.buffer.extend, "storing, bank, mining")
    learner.loss._objective = timed(learner.loss._objective, "RL loss, forward")
    for auxiliary in learner.loss.auxiliaries:
        auxiliary.forward = timed(auxiliary.forward, "contrast, forward")
    learner.descent.step = timed(learner.descent.step, "backward and optimizer")
    learner.update = timed(learner.update, "update")


def measure(loops: dict[str, Iterator[int]], rounds: int) -> dict[str, float]:
    """Frames per CPU second of each loop."""
    seconds, frames = dict.fromkeys(loops, 0.0), dict.fromkeys(loops, 0)
    for i in range(rounds + 4):
        for name, loop in loops.items():
            start = time.process_time()
            count = next(loop)
            if i >= 4:  # the first fill the buffers, and compile
                seconds[name] += time.process_time() - start
                frames[name] += count
    return {name: frames[name] / seconds[name] for name in loops}


def report(preset: str, speed: dict[str, float], parts: dict[str, dict[str, float]], rounds: int) -> None:
    print(f"\n{preset}: frames per CPU second, and as a share of the plain CNN's")
    for name, value in speed.items():
        print(f"  {name:34}{value:8.0f}{value / speed['plain CNN']:8.2f}")
    print(f"{preset}: parts of {rounds + 4} rollouts, CPU seconds")
    columns = ["full", "gaze without contrast", "plain CNN"]
    for part in parts["full"]:
        print(f"  {part:28}" + "".join(f"{parts[name].get(part, 0.0):24.2f}" for name in columns))


if __name__ == "__main__":
    main()
