"""CPU time of a step of Gymnasium, ALE and dm_control, each library alone against the TorchRL environment.

    python benchmarks/envs_fps.py [--steps 400]

Random actions and 64 x 64 pixels, 8 lanes on one thread; a step is one of one lane, of `frame_skip` frames. The arms
take turns. CPU time depends less than wall time on what else the machine does; a core makes 1000 / (CPU-ms per step)
steps per second. Alone, CarRacing's pictures have its own 96 x 96 pixels, and resets are counted on both sides.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torchrl.envs import EnvBase

from gaze_torchrl.envs import ALEEnv, DMControlEnv, GymEnv

LANES, TURN = 8, 25


def gym(task: str) -> Callable[[], None]:
    import gymnasium

    lanes = gymnasium.make_vec(task, LANES, vectorization_mode="sync")
    lanes.reset(seed=0)
    return lambda: [lanes.step(lanes.action_space.sample()) for _ in range(TURN)] and None


def ale(task: str) -> Callable[[], None]:
    import ale_py  # noqa: F401  (registers the games)
    import gymnasium

    options = {"img_height": 64, "img_width": 64, "stack_num": 3, "num_threads": 1}
    lanes = gymnasium.make_vec(f"ALE/{task}-v5", LANES, vectorization_mode="vector_entry_point", **options)
    lanes.reset(seed=0)
    return lambda: [lanes.step(lanes.action_space.sample()) for _ in range(TURN)] and None


def suite(task: str) -> Callable[[], None]:
    from dm_control.suite import load

    lanes = [load(*task.split("-")) for _ in range(LANES)]

    def turn() -> None:
        for lane in lanes:
            spec = lane.action_spec()
            for _ in range(TURN):
                action = spec.minimum + (spec.maximum - spec.minimum) * torch.rand(spec.shape).numpy()
                for _ in range(4):
                    lane.step(action)
                lane.physics.render(64, 64, camera_id=0)

    return turn


def ours(env: EnvBase) -> Callable[[], None]:
    state = [env.reset()]

    def turn() -> None:
        for _ in range(TURN):
            _, state[0] = env.step_and_maybe_reset(env.rand_action(state[0]))

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="steps per arm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Ours first: DMControlEnv chooses how dm_control draws.
    arms = {
        "CarRacing-v3": ({"ours": GymEnv(num_envs=LANES)}, gym("CarRacing-v3")),
        "Pong": ({"ours": ALEEnv(num_envs=LANES, num_threads=1)}, ale("Pong")),
        **{
            task: ({f"low_cost={low}": DMControlEnv(task, LANES, low_cost=low) for low in (False, True)}, suite(task))
            for task in ("cartpole-swingup", "walker-walk")
        },
    }
    for task, (envs, alone) in arms.items():
        turns = {"alone": alone, **{name: ours(env) for name, env in envs.items()}}
        spent = dict.fromkeys(turns, 0.0)
        count = max(1, args.steps // (TURN * LANES))
        for i in range(count + 1):
            for name, turn in turns.items():
                start = time.process_time()
                turn()
                if i > 0:  # the first is a warm-up
                    spent[name] += time.process_time() - start
        cost = {name: 1000 * seconds / (count * TURN * LANES) for name, seconds in spent.items()}
        cells = "  ".join(f"{name} {ms:6.2f}" for name, ms in cost.items())
        ratios = ", ".join(f"{cost['alone'] / cost[name]:.2f}x" for name in envs)
        print(f"{task:18}{cells}  CPU-ms/step, speed against alone: {ratios}", flush=True)


if __name__ == "__main__":
    main()
