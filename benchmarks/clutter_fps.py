"""Frames per CPU-second of the clutter environment, on one thread.

`step` is the bare physics and drawing, `env.step` adds TorchRL's bookkeeping and the resets, `rollout` also
stacks the frames and draws random actions. A frame is one step of one lane.

    python benchmarks/clutter_fps.py --frames 20000
"""

import argparse
import time
from collections.abc import Callable

import torch

from gaze_torchrl.envs.clutter import ClutterEnv
from gaze_torchrl.envs.clutter_levels import LEVELS


def frames_per_second(work: Callable[[int], object], steps: int, lanes: int) -> float:
    work(5)
    start = time.process_time()
    work(steps)
    return steps * lanes / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000, help="frames per cell of the table")
    parser.add_argument("--lanes", type=int, default=32)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = max(args.frames // args.lanes, 1)

    print(f"{'level':8}{'px':>4}{'step':>10}{'env.step':>10}{'rollout':>10}")
    for level in LEVELS:
        for size in (64, 84):
            env = ClutterEnv(level, num_envs=args.lanes, image_size=size, seed=0)
            td = env.rand_action(env.reset())

            def step(n: int, env=env, td=td) -> None:
                for _ in range(n):
                    env._step(td)

            def step_and_reset(n: int, env=env, td=td) -> None:
                action = td["action"]
                for _ in range(n):
                    _, td = env.step_and_maybe_reset(td.set("action", action))

            def rollout(n: int, env=env) -> None:
                for _ in range(0, n, 20):
                    env.rollout(20, break_when_any_done=False)

            cells = [frames_per_second(work, steps, args.lanes) for work in (step, step_and_reset)]
            cells.append(frames_per_second(rollout, -(-steps // 20) * 20, args.lanes))
            print(f"{level:8}{size:4}" + "".join(f"{cell:10,.0f}" for cell in cells))


if __name__ == "__main__":
    main()
