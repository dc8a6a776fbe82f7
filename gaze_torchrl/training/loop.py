"""The training loop: collect, learn, log, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from gaze_torchrl.training.agent import Agent, build_agent, build_env
from gaze_torchrl.training.collecting import build_collector, rollouts
from gaze_torchrl.training.evaluation import episode_metrics, gaze_distance, rollout_episodes
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.guards import NonFinite, TripletWatch, check_rollout
from gaze_torchrl.training.interrupts import remembered_interrupts
from gaze_torchrl.training.learner import Learner
from gaze_torchrl.training.ppo import PPO
from gaze_torchrl.training.run_folder import RunFolder
from gaze_torchrl.training.run_state import RunState
from gaze_torchrl.training.sac import SAC

__all__ = ["LEARNERS", "build_learner", "train"]

LEARNERS: dict[str, Callable[[DictConfig, Agent, EnvBase], Learner]] = {"ppo": PPO, "sac": SAC}
"""What feeds a loss, by the name that ``loss.loop`` gives."""


def train(config: DictConfig, run: RunFolder) -> Agent:
    """Train as configured; everything worth keeping goes to the run folder.

    Args:
        config: a validated configuration.
        run: the run's folder.

    Returns:
        The trained agent.

    Raises:
        ConfigError: if the components do not fit together.
        NonFinite: if a reward, an observation, a loss or a gradient is not finite; the message names it.
        KeyboardInterrupt: on Ctrl-C; if Python lost it while it learnt, at the next rollout.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    begun = run.find_state()
    total = config.total_frames // config.collector.frames_per_batch * config.collector.frames_per_batch
    if total < begun:
        raise ConfigError(f"The run has learnt from {begun} frames: total_frames = {config.total_frames} is behind it.")
    # On resuming, episodes that begin anew are others than those at the start of the run.
    seed = int(np.random.SeedSequence([config.seed, begun]).generate_state(1)[0]) if begun else config.seed
    judge = build_env(config, config.evaluation.episodes, config.evaluation.seed)
    env = None if "num_collectors" in config.collector else build_env(config, config.env.num_envs, seed)
    agent = build_agent(config, judge)
    learner = build_learner(config, agent, judge)
    check_best(config, judge)
    policy = learner.policy()
    written = policy.out_keys
    collector = build_collector(config, policy, env, seed)
    state = RunState(learner, collector, env)
    run.load_state(state)
    run.open(state.frames)
    watch = TripletWatch()

    def keep(evaluate_every: int, save_every: int) -> None:
        if state.frames - state.evaluated >= evaluate_every:
            state.evaluated = state.frames
            evaluation = {"frames": state.frames, **evaluate(judge, agent, config)}
            run.log("evaluation", evaluation)
            run.save_networks(learner.networks, evaluation)
        if state.frames - state.saved >= save_every:
            state.saved = state.frames
            run.save_state(state)

    mark = time.perf_counter()
    try:
        with (
            remembered_interrupts() as interrupts,
            tqdm(total=total, initial=state.frames, unit="frame", unit_scale=True, dynamic_ncols=True) as bar,
        ):
            batches = rollouts(collector, config.env.num_envs, written)
            while state.frames < total:
                if interrupts:  # and nothing has stopped
                    raise KeyboardInterrupt
                rollout = state.number(next(batches))
                collected = time.perf_counter()
                state.frames += rollout.numel()
                check_rollout(rollout, written)
                learner.schedule(state.frames)
                metrics = {"frames": state.frames, **rollout_metrics(rollout, agent)}
                metrics |= {**learner.update(rollout), **learner.statistics()}
                watch.look(learner.triplets)
                run.log("metrics", metrics)
                spent = {"collect": collected - mark, "update": time.perf_counter() - collected}
                run.log("timings", {"frames": state.frames, **spent})
                bar.update(rollout.numel())
                bar.set_postfix(progress(metrics))
                keep(config.evaluation.every, config.checkpoint.every)
                mark = time.perf_counter()
            keep(1, 1)  # whatever is not kept yet: of a resumed run there may be nothing left to learn
    except NonFinite as error:
        raise NonFinite(f"{error} {run.save_failure(error, learner.networks)}", error.batch) from error
    finally:
        collector.shutdown()
        judge.close(raise_if_closed=False)
    return agent


def check_best(config: DictConfig, env: EnvBase) -> None:
    """Check, before the first step, that evaluations will have the metric by which the best checkpoint is kept.

    Raises:
        ConfigError: if they will not.
    """
    best, reported = config.checkpoint.keep_best, ["return"]
    if env.observation_spec.get("success", None) is not None:
        reported += ["success_at_end", "success_once", "success_time"]
    if best is not None and best not in reported:
        raise ConfigError(f"checkpoint.keep_best must be one of {reported}, or null, got {best!r}.")


def build_learner(config: DictConfig, agent: Agent, env: EnvBase) -> Learner:
    """The configured learner.

    Raises:
        ConfigError: if its parts do not fit together.
    """
    if config.loss.loop not in LEARNERS:
        raise ConfigError(f"loss.loop must be one of {sorted(LEARNERS)}, got {config.loss.loop!r}.")
    learner = LEARNERS[config.loss.loop](config, agent, env)
    needs = () if learner.triplets is None else getattr(learner.triplets.labels, "needs", ())
    if "success" in needs and env.observation_spec.get("success", None) is None:
        raise ConfigError(
            f"labels=success needs an environment that says so, but env={config.task.env} has no goal to reach: choose "
            "labels=value_target or labels=return_to_go."
        )
    return learner


def rollout_metrics(rollout: TensorDictBase, agent: Agent) -> dict[str, float]:
    """What the training episodes look like, noise of the actions included."""
    metrics = {"reward": rollout["next", "reward"].mean()}
    done, success = rollout["next", "done"], rollout.get(("next", "success"), None)
    if success is not None:
        # NaN where no episode ended: an empty mean is not a success rate of zero.
        metrics["success_at_end"] = success[done].float().mean()
    mean = rollout.get(("gaze", "mean"), None)
    for name, place in {"gaze_distance": "center", "gaze_distance_agent": "agent"}.items():
        center = rollout.get(("truth", place), None)
        if center is not None and mean is not None:
            metrics[name] = gaze_distance(mean, center, agent.geometry).mean()
    return {name: float(value) for name, value in metrics.items()}


def evaluate(judge: EnvBase, agent: Agent, config: DictConfig) -> dict[str, float]:
    """Metrics of the evaluation episodes."""
    policy = agent.watched_policy()
    steps = rollout_episodes(judge, policy, config.evaluation.seed)
    check_rollout(steps, policy.out_keys)
    return episode_metrics(steps, agent.geometry)


def progress(metrics: dict[str, float]) -> dict[str, str]:
    """The numbers beside the progress bar."""
    names = {
        "success": "success_at_end",
        "gaze": "gaze_distance",
        "reward": "reward",
        "pi": "loss_objective",
        "actor": "loss_actor",
        "v": "loss_critic",
        "q": "loss_qvalue",
        "contrast": "loss_contrast",
    }
    # NaN says that there was nothing to measure: no episode has ended, or learning has not begun.
    shown = {short: metrics[name] for short, name in names.items() if not math.isnan(metrics.get(name, math.nan))}
    return {short: f"{value:.2g}" for short, value in shown.items()}
