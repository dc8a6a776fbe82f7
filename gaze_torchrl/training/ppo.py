"""Proximal policy optimisation with a gaze: the whole training loop."""

from __future__ import annotations

import math
import time

import torch
from omegaconf import DictConfig
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from tqdm import tqdm

from gaze_torchrl.training.agent import Agent, Learner, build_agent, build_env, build_learner
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.evaluation import episode_metrics, gaze_distance, rollout_episodes
from gaze_torchrl.training.run_folder import RunFolder

__all__ = ["train_ppo"]


def train_ppo(config: DictConfig, run: RunFolder) -> Agent:
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
    learner = build_learner(config, agent)

    frames_per_batch = config.collector.frames_per_batch
    total = config.total_frames // frames_per_batch * frames_per_batch
    features = [] if learner.triplets is None else ["features"]
    collector = assemble(
        config.collector, "collector", create_env_fn=env, policy=agent.policy(*features), total_frames=total
    )
    run.open()
    frames, evaluated, mark = 0, 0, time.perf_counter()
    try:
        with tqdm(total=total, unit="frame", unit_scale=True, dynamic_ncols=True) as bar:
            for rollout in collector:
                collected = time.perf_counter()
                frames += rollout.numel()
                estimate_advantage(rollout, agent, learner)
                losses = optimize(rollout, learner, config)
                updated = time.perf_counter()
                metrics = {"frames": frames, **rollout_metrics(rollout, agent), **losses}
                run.log("metrics", metrics)
                run.log("timings", {"frames": frames, "collect": collected - mark, "update": updated - collected})
                bar.update(rollout.numel())
                bar.set_postfix(progress(metrics))
                if frames - evaluated >= config.evaluation.every or frames == total:
                    evaluated = frames
                    run.log("evaluation", {"frames": frames, **evaluate(judge, agent, config)})
                    run.save(agent, frames)
                mark = time.perf_counter()
    finally:
        collector.shutdown()
        judge.close(raise_if_closed=False)
    return agent


@torch.no_grad()
def estimate_advantage(rollout: TensorDictBase, agent: Agent, learner: Learner) -> None:
    """Write ``advantage``, ``value_target`` and ``("next", "state_value")`` into a rollout [N, T].

    The policy has valued every state it acted in, and the next state of a step is the state of the following one:
    only where an episode or the rollout ends must a next state be looked at.
    """
    value = rollout["state_value"]
    next_value = torch.cat([value[:, 1:], value[:, -1:]], 1)
    border = rollout["next", "done"].squeeze(-1).clone()
    border[:, -1] = True
    observation = rollout["next"].select("pixels", "proprio", strict=False)[border]
    next_value[border] = agent.critic(agent.trunk(observation))["state_value"]
    rollout["next", "state_value"] = next_value
    learner.advantage(rollout)


def optimize(rollout: TensorDictBase, learner: Learner, config: DictConfig) -> dict[str, float]:
    """Several epochs of gradient steps on one rollout; the mean of each loss term."""
    steps = rollout.reshape(-1).exclude("success", "truth", ("next", "pixels"), ("next", "truth"))
    learner.buffer.empty()
    learner.buffer.extend(steps)
    history: list[TensorDictBase] = []
    for _ in range(config.loss.epochs):
        for minibatch in learner.buffer:
            losses = learner.loss(minibatch)
            gradient_step(losses, learner, config)
            history.append(losses.detach())
    terms = TensorDict.stack(history)
    means = {name: float(terms[name].mean()) for name in sorted(terms.keys())}
    for name, value in means.items():
        if name.startswith("loss_") and not math.isfinite(value):
            raise FloatingPointError(
                f"{name} is {value}: lower loss.learning_rate, or check the environment's rewards and pixels."
            )
    return means


def gradient_step(losses: TensorDictBase, learner: Learner, config: DictConfig) -> None:
    """One optimizer step; the contrastive gradient has its own norm limit, so it takes nothing of the RL loss's."""
    parameters = list(learner.loss.parameters())
    objective = sum(value for name, value in losses.items() if name.startswith("loss_") and name != "loss_gaze")
    learner.optimizer.zero_grad()
    objective.backward()
    nn.utils.clip_grad_norm_(parameters, config.loss.max_grad_norm)
    if learner.triplets is not None:
        add_gradient(losses["loss_gaze"], list(learner.loss.auxiliary.parameters()), config.contrast.max_grad_norm)
    learner.optimizer.step()


def add_gradient(loss: Tensor, parameters: list[Tensor], max_norm: float) -> None:
    """Add the gradient of a loss, of norm ``max_norm`` at most, to the gradients already there."""
    gradients = torch.autograd.grad(loss, parameters)
    scale = (max_norm / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp_max(1.0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient = gradient * scale
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)


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
        "v": "loss_critic",
        "triplet": "loss_gaze",
    }
    return {short: f"{metrics[name]:.2g}" for short, name in names.items() if name in metrics}
