"""What every environment of another library is held to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase, check_env_specs
from torchrl.envs.utils import step_mdp


def actions_for(env: EnvBase, steps: int) -> list[Tensor]:
    """Random actions, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return [env.action_spec.rand() for _ in range(steps)]


def play(env: EnvBase, actions: list[Tensor], seed: int) -> tuple[TensorDict, TensorDict]:
    """Play from a seeded reset: observations [N, T + 1] that actions were given for, and results [N, T]."""
    env.set_seed(seed)
    td, roots, results = env.reset(), [], []
    for action in actions:
        roots.append(td.select("pixels"))
        step, td = env.step_and_maybe_reset(td.set("action", action))
        results.append(step["next"])
    return torch.stack([*roots, td.select("pixels")], 1), torch.stack(results, 1)


def check_contract(env: EnvBase, image_size: int) -> None:
    """TorchRL's specs, ours of the keys, and pictures that show something."""
    check_env_specs(env)
    step = env.rollout(3)["next"]
    assert step["pixels"].shape == (*env.batch_size, 3, 3, image_size, image_size)
    assert step["pixels"].dtype == torch.uint8
    assert step["reward"].shape == (*env.batch_size, 3, 1)
    assert step["reward"].dtype == torch.float32
    assert {"done", "terminated", "truncated"} <= set(step.keys())
    for picture in step["pixels"][:, -1]:
        assert picture.flatten(1).unique(dim=1).shape[1] > 2
        assert picture.float().std() > 3


def check_seeds(make: Callable[[], EnvBase], steps: int) -> None:
    """Equal seeds make equal episodes, on one environment and on two; others, and other lanes, differ."""
    one, other = make(), make()
    actions = actions_for(one, steps)
    first, again, elsewhere = (play(env, actions, seed=5) for env in (one, one, other))
    for results in (again, elsewhere):
        assert all((a == b).all() for a, b in zip(first, results, strict=True))
    roots, _ = play(one, actions, seed=1000)
    assert (roots["pixels"] != first[0]["pixels"]).any()
    assert (roots["pixels"][0] != roots["pixels"][1]).any()
    neighbour, _ = play(one, actions, seed=6)
    assert (neighbour["pixels"][0] != first[0]["pixels"][1]).any(), "neighbouring seeds share no lane"
    one.set_seed(2**32 - 1)  # of a run that goes on, or of a process
    one.reset()


def check_partial_reset(env: EnvBase) -> None:
    """A mask resets its lanes and leaves the others, and what was handed out, alone."""
    env.set_seed(0)
    start = env.reset()
    td = step_mdp(env.rollout(6, auto_reset=False, tensordict=start)[:, -1])
    handed_out, copy = td["pixels"], td["pixels"].clone()
    lanes = torch.tensor([False, True])
    fresh = env.reset(td.clone().set("_reset", lanes[:, None]))
    assert fresh["pixels"][0].equal(copy[0])
    assert not fresh["pixels"][1].equal(copy[1])
    env.rand_step(fresh)
    assert handed_out.equal(copy)
    assert env.reset(fresh)["done"].sum() == 0  # no mask: all lanes


def check_horizon(env: EnvBase, horizon: int) -> None:
    """Truncated at the horizon, again and again, where episodes do not end by themselves before."""
    td = env.rollout(2 * horizon + 1, break_when_any_done=False)["next"]
    step = torch.arange(1, 2 * horizon + 2).view(1, -1, 1).expand(len(td), -1, 1)
    assert td["truncated"].equal(step % horizon == 0)
    assert td["done"].equal(td["truncated"])
    assert not td["terminated"].any()


def check_collector(env: EnvBase) -> None:
    """TorchRL's collector gathers whole batches of random steps."""
    collector = Collector(env, frames_per_batch=20, total_frames=40)
    shapes = [batch["next", "pixels"].shape[:2] for batch in collector]
    collector.shutdown()
    assert shapes == [(2, 10), (2, 10)]


def check_frame_stack(make: Callable[..., EnvBase]) -> None:
    """The last three pictures, the newest last, before an episode's first that one; over episodes of four steps."""
    one, stacked = make(horizon=4), make(horizon=4, frame_stack=3)
    check_env_specs(stacked)
    actions = actions_for(one, 10)
    (roots, results), (roots3, results3) = play(one, actions, seed=3), play(stacked, actions, seed=3)
    for t in range(10):
        seen = [roots["pixels"][:, t - min(t % 4, back)] for back in (2, 1, 0)]
        assert roots3["pixels"][:, t].equal(torch.cat(seen, 1))
        assert results3["pixels"][:, t].equal(torch.cat([*seen[1:], results["pixels"][:, t]], 1))
