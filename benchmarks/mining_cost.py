"""Where the time of a PPO update goes: mining, bank, sampling of triplets, contrast; and how good compact keys are.

    python benchmarks/mining_cost.py [--updates 12] [--frames 16384] [overrides ...]

Trains the configured agent (by default the demo's) for some frames, so that features and gaze are not those of random
weights, then measures updates on one thread, in seconds of the process. Parts are timed inside the real update. The
second table compares the nearest neighbours by each kind of key with those by the full maps, over the bank as it is
after training: the share of the full maps' neighbours that are found too, and how often the nearest is among them.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from gaze_torchrl.functional import knn
from gaze_torchrl.replay import FullKeys, PooledKeys, ProjectedKeys, TripletReplay
from gaze_torchrl.training import descent
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.learner import Learner
from gaze_torchrl.training.loop import build_learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=12, help="updates measured")
    parser.add_argument("--frames", type=int, default=16_384, help="frames trained beforehand")
    parser.add_argument("overrides", nargs="*", help="such as key=projected")
    arguments = parser.parse_args()
    config = compose_config(["experiment=demo", *arguments.overrides])
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    env = build_env(config, config.env.num_envs, config.seed)
    learner = build_learner(config, build_agent(config, env), env)
    frames = arguments.frames + arguments.updates * config.collector.frames_per_batch
    collector = assemble(config.collector, "collector", create_env_fn=env, policy=learner.policy(), total_frames=frames)
    spent: dict[str, float] = defaultdict(float)
    seen = 0
    for rollout in collector:
        if seen == arguments.frames:
            watch(learner, spent)
        seen += rollout.numel()
        if seen > arguments.frames:
            with Stopwatch(spent, "update"):
                learner.update(rollout)
        else:
            learner.update(rollout)
    collector.shutdown()
    print(f"{arguments.updates} updates of {config.collector.frames_per_batch} frames, one thread, CPU time")
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:28}{1e3 * seconds / arguments.updates:9.1f} ms{100 * seconds / spent['update']:8.2f} %")
    print_agreement(learner.triplets.bank.rows, learner.agent.sizes)


class Stopwatch:
    """Adds the CPU time of a block to an entry."""

    def __init__(self, spent: dict[str, float], name: str) -> None:
        self.spent, self.name = spent, name

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.spent[self.name] += time.process_time() - self.start


def watch(learner: Learner, spent: dict[str, float]) -> None:
    """Time the parts of an update from here on."""

    def timed(call: Callable, name: str) -> Callable:
        def run(*args: object, **kwargs: object) -> object:
            with Stopwatch(spent, name):
                return call(*args, **kwargs)

        return run

    triplets: TripletReplay = learner.triplets
    triplets._mine = timed(triplets._mine, "  mining")
    triplets._inv_call = timed(triplets._inv_call, "  bank and mining")
    triplets.forward = timed(triplets.forward, "  triplets of samples")
    learner.contrast.forward = timed(learner.contrast.forward, "  contrast, forward")
    descent.add_gradient = timed(descent.add_gradient, "  contrast, backward")


@torch.no_grad()
def print_agreement(rows, sizes: dict, anchors: int = 512, pool: int = 2048, neighbors: int = 32) -> None:
    """Neighbours by compact keys against those by full maps, as the miner searches them."""
    features = rows["members", "features"].movedim(-1, -3).float()
    index = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:pool]
    features, episode = features[index], rows["episode"][index]
    mask = episode[:anchors, None] != episode
    kinds = {
        "full": FullKeys(),
        "pooled 4x4": PooledKeys(),
        "pooled 1x1": PooledKeys(1),
        **{f"projected to {dim}": ProjectedKeys(sizes["in_channels"], sizes["map_size"], dim) for dim in (64, 256)},
    }
    found = {}
    print(f"\n{'key':20}{'numbers':>9}{'search, ms':>12}{'neighbours shared':>19}{'nearest among them':>20}")
    for name, kind in kinds.items():
        keys = kind(features)
        keys = keys - keys.mean(0)
        start = time.process_time()
        _, slot = knn(keys[:anchors], keys, neighbors, mask=mask)
        seconds = time.process_time() - start
        found[name] = slot
        same = (slot[:, :, None] == found["full"][:, None]) & (slot >= 0)[:, :, None]
        shared = same.any(-1).sum() / (found["full"] >= 0).sum()
        print(
            f"{name:20}{keys.shape[1]:9}{1e3 * seconds:12.1f}{shared:19.2f}{same[:, :, 0].any(-1).float().mean():20.2f}"
        )


if __name__ == "__main__":
    main()
