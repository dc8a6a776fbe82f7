"""The training loop: collect, learn, log, evaluate, save."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from omegaconf import DictConfig
from tensordict import TensorDictBase
from torchrl.envs import EnvBase
from tqdm import tqdm

from gaze_torchrl.training.agent import Agent, build_agent, build_env
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.evaluation import episode_metrics, gaze_distance, rollout_episodes
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.learner import Learner
from gaze_torchrl.training.ppo import PPO
from gaze_torchrl.training.run_folder import RunFolder
from gaze_torchrl.training.sac import SAC

__all__ = ["LEARNERS", "build_learner", "train"]

LEARNERS: dict[str, Callable[[DictConfig, Agent, EnvBase], Learner]] = {"ppo": PPO, "sac": SAC}


def train(config: DictConfig, run: RunFolder) -> Agent:
    """Train as configured; everything worth keeping goes to the run folder.

    Args:
        config: a validated configuration.
        run: the run's folder.

    Returns:
        The trained agent.

    Raises:
        ConfigError: if the components do not fit together.
        FloatingPointError: if a loss stops being finite; the message names it.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    env = build_env(config, config.env.num_envs, config.seed)
    judge = build_env(config, config.evaluation.episodes, config.evaluation.seed)
    agent = build_agent(config, env)
    learner = build_learner(config, agent, env)

    frames_per_batch = config.collector.frames_per_batch
    total = config.total_frames // frames_per_batch * frames_per_batch
    collector = assemble(config.collector, "collector", create_env_fn=env, policy=learner.policy(), total_frames=total)
    run.open()
    frames, evaluated, mark = 0, 0, time.perf_counter()
    try:
        with tqdm(total=total, unit="frame", unit_scale=True, dynamic_ncols=True) as bar:
            for rollout in collector:
                collected = time.perf_counter()
                frames += rollout.numel()
                metrics = {"frames": frames, **rollout_metrics(rollout, agent)}
                metrics |= {**learner.update(rollout), **learner.statistics()}
                run.log("metrics", metrics)
                run.log(
                    "timings",
                    {"frames": frames, "collect": collected - mark, "update": time.perf_counter() - collected},
                )
                bar.update(rollout.numel())
                bar.set_postfix(progress(metrics))
                if frames - evaluated >= config.evaluation.every or frames == total:
                    evaluated = frames
                    run.log("evaluation", {"frames": frames, **evaluate(judge, agent, config)})
                    run.save(learner.networks, frames)
                mark = time.perf_counter()
    finally:
        collector.shutdown()
        judge.close(raise_if_closed=False)
    return agent


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
    center, mean = rollout.get(("truth", "center"), None), rollout.get(("gaze", "mean"), None)
    if center is not None and mean is not None:
        metrics["gaze_distance"] = gaze_distance(mean, center, agent.geometry).mean()
    return {name: float(value) for name, value in metrics.items()}


def evaluate(judge: EnvBase, agent: Agent, config: DictConfig) -> dict[str, float]:
    """Metrics of the evaluation episodes."""
    steps = rollout_episodes(judge, agent.watched_policy(), config.evaluation.seed)
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
