"""What collects: TorchRL's collector in this process, in several, or in those of a Ray cluster."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torchrl.envs import EnvBase

from gaze_torchrl.envs.wrapping import RefusedAction, WorkerDied
from gaze_torchrl.training.agent import build_env
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.guards import check_rollout

__all__ = ["EnvShare", "build_collector", "rollouts"]


class EnvShare:
    """Makes one process's share of the environments, there; can be pickled.

    Args:
        config: the whole configuration.
        num_envs: how many environments.
        seed: of these, and of the process's global generator, from which the policy draws.
    """

    def __init__(self, config: DictConfig, num_envs: int, seed: int) -> None:
        self.config, self.num_envs, self.seed = config, num_envs, seed

    def __call__(self) -> EnvBase:
        """The environments."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        return build_env(self.config, self.num_envs, self.seed)


def build_collector(config: DictConfig, policy: TensorDictModuleBase, env: EnvBase | None, seed: int) -> Any:
    """The configured collector.

    Args:
        config: the whole configuration.
        policy: what acts.
        env: what it acts in, in this process; None for a collector in other processes.
        seed: of the environments in other processes.

    Returns:
        A TorchRL collector that never ends by itself.
    """
    create: Any = env
    if env is None:
        shares = config.collector.num_collectors
        seeds = np.random.SeedSequence(seed).generate_state(shares)
        create = [EnvShare(config, config.env.num_envs // shares, int(one)) for one in seeds]
    # Not -1, for which some collectors end at once; whole rollouts, or TorchRL warns.
    endless = sys.maxsize // config.collector.frames_per_batch * config.collector.frames_per_batch
    collector = assemble(config.collector, "collector", create_env_fn=create, policy=policy, total_frames=endless)
    if actors := getattr(collector, "remote_collectors", ()):
        import ray

        # TorchRL gives them a minute to fetch their first weights, less than their imports take on a busy machine.
        ray.get([one.__ray_ready__.remote() for one in actors])
    return collector


def rollouts(collector: Any, lanes: int, written: Iterable[NestedKey] = ()) -> Iterator[TensorDictBase]:
    """Rollouts [N, T] of all environments, whoever collected them.

    Args:
        collector: a TorchRL collector.
        lanes: number N of environments.
        written: what the policy writes.

    Raises:
        WorkerDied: if one of the collector's processes was killed.
        NonFinite: if the policy was told something that is not finite, and its action was refused.
    """
    processes = list(getattr(collector, "procs", ()))  # TorchRL forgets them when one of them fails
    try:
        for rollout in collector:
            if rollout.ndim == 3:  # Ray's: [collectors, N / collectors, T], each collector with numbers of its own
                shares, numbers = len(rollout), rollout["collector", "traj_ids"]
                numbers = numbers * shares + torch.arange(shares, device=numbers.device).view(-1, 1, 1)
                rollout = rollout.set(("collector", "traj_ids"), numbers).reshape(lanes, -1)
            yield rollout
    except Exception as error:
        if isinstance(error, RefusedAction):
            check_rollout(error.batch, written)
        _explain_process(error, processes)
        raise


def _explain_process(error: Exception, processes: list[BaseProcess]) -> None:
    """Say which process ended, and how, if that is what an error of a collector means."""
    codes = {worker: code for worker, one in enumerate(processes) if (code := _exit_code(one))}
    # TorchRL ends the others by SIGTERM.
    worker = min(codes, key=lambda one: codes[one] == -signal.SIGTERM, default=None)
    if worker is not None and codes[worker] > 0:
        raise RuntimeError(
            f"Worker {worker} of {len(processes)} of collector=process failed (exit code {codes[worker]}): its own "
            "error stands above this one."
        ) from error
    if worker is not None:
        name = signal.Signals(-codes[worker]).name
        raise WorkerDied(f"A collector's process has ended: worker {worker} of {len(processes)}, by {name}.") from error
    # Of a Ray actor, and what its connection says if it ends while weights are sent to it.
    if any(words in str(error) for words in ("actor died", "Connection closed by peer")):
        raise WorkerDied(f"A collector's process has ended: {' '.join(str(error).split())}") from error


def _exit_code(process: BaseProcess) -> int | None:
    try:
        return process.exitcode
    except ValueError:  # closed by TorchRL, and so not the one that failed
        return None
