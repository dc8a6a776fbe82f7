"""CPU time of a ManiSkill step at 64 x 64 pixels, stock against low-polygon visuals.

    python benchmarks/maniskill_fps.py [--steps 400]

The four arms of a task (stock or low-polygon, ManiSkill's own `step` or the TorchRL environment's) take turns,
with the same episodes and actions. CPU time of all threads depends less than wall time on what else the machine
does; a core makes 1000 / (CPU-ms per step) steps per second.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torchrl.envs.utils import step_mdp

from gaze_torchrl.envs.maniskill import ManiSkillEnv

SCENES = 4
TURN = 25  # steps


def raw(env: ManiSkillEnv, actions: torch.Tensor) -> Callable[[], None]:
    def turn() -> None:
        env.reset()
        for i, scene in enumerate(env._scenes):
            for action in actions[:, i]:
                scene.step(action)

    return turn


def wrapped(env: ManiSkillEnv, actions: torch.Tensor) -> Callable[[], None]:
    def turn() -> None:
        td = env.reset()
        for action in actions:
            td = step_mdp(env.step(td.set("action", action)))

    return turn


def benchmark(task: str, steps: int) -> None:
    envs = {low_poly: ManiSkillEnv(task, num_envs=SCENES, low_poly=low_poly) for low_poly in (False, True)}
    actions = 2 * torch.rand(TURN, *envs[True].action_spec.shape) - 1
    arms = {(kind.__name__, low_poly): kind(env, actions) for kind in (raw, wrapped) for low_poly, env in envs.items()}
    spent = dict.fromkeys(arms, 0.0)
    turns = max(1, steps // (TURN * SCENES))
    for i in range(turns + 1):
        for arm, turn in arms.items():
            envs[arm[1]].set_seed(i)
            start = time.process_time()
            turn()
            if i > 0:  # the first is a warm-up
                spent[arm] += time.process_time() - start
    for kind in ("raw", "wrapped"):
        stock, low = (1000 * spent[kind, low_poly] / (turns * TURN * SCENES) for low_poly in (False, True))
        print(f"{task:14} {kind:8} stock {stock:5.1f}  low-poly {low:5.1f} CPU-ms/step  {stock / low:4.1f}x")
    for env in envs.values():
        env.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="steps of each arm")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for task in ("PushCube-v1", "PullCube-v1"):
        benchmark(task, steps)
