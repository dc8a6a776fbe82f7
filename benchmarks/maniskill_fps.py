"""Time of a ManiSkill step at 64 x 64 pixels: stock and low-polygon visuals, ManiSkill's own step, ours, two processes.

    python benchmarks/maniskill_fps.py [--steps 400] [--scenes 16]

The arms of a task take turns, with actions of their own kind: ManiSkill as its users run it (`rgb`, stock visuals),
the same with low-polygon visuals, `ManiSkillEnv` (which also draws the segmentation for the truth), and `ManiSkillEnv`
in two processes. CPU time of all threads depends less than wall time on what else the machine does; two processes are
measured by wall time, and need two free cores.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torchrl.envs.utils import step_mdp

from gaze_torchrl.envs.maniskill import ManiSkillEnv
from gaze_torchrl.envs.maniskill_scene import scene_class
from gaze_torchrl.envs.maniskill_tasks import task_specification

TURN = 25  # steps


class Raw:
    """ManiSkill's own environments, in turn at each step, as a vector environment would."""

    def __init__(self, env: ManiSkillEnv, low_poly: bool) -> None:
        task_class = task_specification(env.task).cls
        kind = scene_class(task_class, env.simulation.options) if low_poly else task_class
        self.scenes = [
            kind(
                obs_mode="rgb",
                reward_mode="normalized_dense",
                control_mode="pd_joint_delta_pos",
                sensor_configs={"width": 64, "height": 64, "shader_pack": "minimal"},
                sim_backend="physx_cpu",
                render_backend="cpu",
            )
            for _ in range(env.num_envs)
        ]

    def __call__(self, actions: torch.Tensor) -> None:
        for commands in actions:
            for scene, command in zip(self.scenes, commands, strict=True):
                scene.step(command)

    def reset(self, seed: int) -> None:
        for i, scene in enumerate(self.scenes):
            scene.reset(seed=seed + i)


class Wrapped:
    """Ours."""

    def __init__(self, env: ManiSkillEnv) -> None:
        self.env = env

    def __call__(self, actions: torch.Tensor) -> None:
        for action in actions:
            self.td = step_mdp(self.env.step(self.td.set("action", action)))

    def reset(self, seed: int) -> None:
        self.env.set_seed(seed)
        self.td = self.env.reset()


def benchmark(task: str, steps: int, scenes: int) -> None:
    env, two = (ManiSkillEnv(task, num_envs=scenes, num_workers=workers) for workers in (1, 2))
    actions = 2 * torch.rand(TURN, *env.action_spec.shape) - 1
    arms: dict[str, Callable] = {
        "stock": Raw(env, low_poly=False),
        "low-poly": Raw(env, low_poly=True),
        "ManiSkillEnv": Wrapped(env),
        "in 2 processes": Wrapped(two),
    }
    spent = dict.fromkeys(arms, (0.0, 0.0))
    turns = max(1, steps // (TURN * scenes))
    for i in range(turns + 1):
        for name, arm in arms.items():
            arm.reset(i)
            cpu, wall = time.process_time(), time.perf_counter()
            arm(actions)
            if i > 0:  # the first is a warm-up
                spent[name] = (spent[name][0] + time.process_time() - cpu, spent[name][1] + time.perf_counter() - wall)
    total = turns * TURN * scenes / 1000
    (stock, _), (low, _), (ours, wall), (_, wall_two) = spent.values()
    print(
        f"{task:14} CPU-ms/step: stock {stock / total:5.1f}, low-poly {low / total:5.2f}, ManiSkillEnv "
        f"{ours / total:5.2f}; ManiSkillEnv is {stock / ours:4.1f}x as fast as stock and takes {ours / low - 1:+.1%} "
        f"over low-poly; two processes are {wall / wall_two:4.2f}x as fast by wall time"
    )
    env.close()
    two.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of each arm")
    parser.add_argument("--scenes", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for task in ("PushCube-v1", "PullCube-v1"):
        benchmark(task, arguments.steps, arguments.scenes)
