"""A run from start to end, and its evaluation afterwards."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gaze_torchrl.envs.wrapping import ShiftDoesNotApply
from gaze_torchrl.training.agent import Agent, build_env, rebuild_agent
from gaze_torchrl.training.checkpoints import best_metric, load_agent
from gaze_torchrl.training.evaluation import episode_metrics, rollout_episodes
from gaze_torchrl.training.explain import ConfigError, config_dir, unknown_key
from gaze_torchrl.training.loop import train
from gaze_torchrl.training.overlay import gaze_video
from gaze_torchrl.training.plot import plot_run
from gaze_torchrl.training.run_folder import RunFolder, is_complete
from gaze_torchrl.training.suites import SUITES
from gaze_torchrl.training.validate import validate

__all__ = ["CHANGEABLE", "evaluate_run", "evaluate_suite", "resume_run", "run_config", "run_experiment"]

CHANGEABLE = (
    "total_frames",
    "threads",
    "compile",
    "env.num_workers",
    "evaluation.video_episodes",
    "loss.replay.spare",
)
"""What may change when a run goes on. With other threads or another compiler, numbers differ by rounding; spare frames
of a replay buffer can only become more, where episodes have become shorter than was thought."""


def run_experiment(config: DictConfig, resume: bool = False) -> Path:
    """Train as configured, then draw the learning curve and the video.

    Args:
        config: composed, validated and resolved (`compose_config`).
        resume: go on with the run in ``config.run_dir``.

    Returns:
        The run folder.
    """
    if config.env.get("level") == "shift":
        warnings.warn(
            "env.level=shift is held out for evaluation: results of agents trained on it mean little.", stacklevel=2
        )
    run = RunFolder(config.run_dir, config, resume)
    try:
        agent = train(config, run)
    finally:
        run.close()
    plot_run(run.path)
    if config.evaluation.video_episodes:
        _judge(config, agent, run.path, config.evaluation.video_episodes)
    run.complete()
    return run.path


def resume_run(path: Path, overrides: Sequence[str] = ()) -> Path:
    """Go on with a run that was stopped, from its last saved state, as if it had not been.

    Args:
        path: a run folder.
        overrides: changes that leave what was learnt so far as it is: of `CHANGEABLE` only.

    Returns:
        The run folder.

    Raises:
        ConfigError: for another change, or a run that is complete.
        FileNotFoundError: if the path is no run folder.
        CheckpointError: if its state was written in another format, or does not fit.
    """
    if strangers := [one for one in overrides if one.partition("=")[0] not in CHANGEABLE]:
        raise ConfigError(f"A run goes on as it was begun: only {', '.join(CHANGEABLE)} can change, got {strangers}.")
    if is_complete(path):
        frames = run_config(path, []).total_frames
        raise ConfigError(
            f"{path} is complete, with {frames} frames, and what would let it go on is gone: begin another."
        )
    config = run_config(path, overrides)
    config.run_dir = str(path)
    return run_experiment(config, resume=True)


def evaluate_run(path: Path, overrides: Sequence[str] = (), best: bool = False) -> tuple[Path, dict[str, float]]:
    """Evaluate the newest checkpoint of a run.

    Args:
        path: a run folder.
        best: evaluate its best checkpoint (by ``checkpoint.keep_best``) instead.
        overrides: ``key=value`` changes to its configuration, such as ``env.level=shift``.

    Returns:
        The folder with ``metrics.json`` and ``gaze.gif``, inside the run folder, and the metrics.

    Raises:
        ConfigError: for a key the run's configuration does not have.
        FileNotFoundError: if the path is no run folder.
        CheckpointError: if the checkpoint is refused; nothing is written then.
    """
    config = run_config(path, overrides)
    agent, frames = _trained_agent(path, config, best)
    folder = _evaluation_folder(path, frames, overrides)
    metrics = {"frames": frames, **_judge(config, agent, folder, config.evaluation.episodes)}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return folder, metrics


def evaluate_suite(
    path: Path, suite: str, overrides: Sequence[str] = (), best: bool = False
) -> tuple[Path, dict[str, dict[str, float]]]:
    """Evaluate the newest checkpoint of a run where it was trained and under every condition of a suite.

    Args:
        path: a run folder.
        suite: one of `SUITES`.
        overrides, best: as for `evaluate_run`, for all conditions.

    Returns:
        The folder with ``suite.csv``, inside the run folder, and the metrics by condition; none, with a warning, of
        one that does not apply to the task, such as distractors where there is no table for them.

    Raises:
        ConfigError: for an unknown suite, or one of another environment; otherwise as `evaluate_run`.
    """
    if suite not in SUITES:
        raise ConfigError(f"suite must be one of {sorted(SUITES)}, got {suite!r}.")
    # All are checked before the first of many episodes.
    conditions = {name: run_config(path, [*overrides, *extra]) for name, extra in SUITES[suite].items()}
    agent, frames = _trained_agent(path, next(iter(conditions.values())), best)
    folder = _evaluation_folder(path, frames, [suite, *overrides])
    results: dict[str, dict[str, float]] = {}
    for name, config in conditions.items():
        config.evaluation.video_episodes = 0
        try:
            results[name] = _judge(config, agent, folder, config.evaluation.episodes)
        except ConfigError as error:
            if not isinstance(error.__cause__, ShiftDoesNotApply):
                raise
            warnings.warn(f"suite={suite} without {name}: {error.__cause__}", stacklevel=2)
            results[name] = {}
        # Written each time: one condition that fails does not lose those before it.
        with (folder / "suite.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["condition", *next(iter(results.values()))])
            writer.writeheader()
            writer.writerows({"condition": name, **metrics} for name, metrics in results.items())
    return folder, results


# What an evaluation has of its own.
_OF_TRAINING = {"seed": "evaluation.seed", "env.num_envs": "evaluation.episodes"}


def run_config(path: Path, overrides: Sequence[str]) -> DictConfig:
    """A run's configuration with changes.

    Args:
        path: a run folder.
        overrides: ``key=value`` of single fields, such as ``env.level=shift``.

    Raises:
        ConfigError: for a key the configuration does not have, a change of components, or a value that cannot be.
        FileNotFoundError: if the path is no run folder.
    """
    file = path / "config.yaml"
    if not file.is_file():
        raise FileNotFoundError(f"{path} is no run folder: it has no config.yaml. gaze-train prints run_dir=...")
    config = cast(DictConfig, OmegaConf.merge(_shipped(), OmegaConf.load(file)))
    OmegaConf.resolve(config)
    OmegaConf.set_struct(config, True)
    for override in overrides:
        key, equals, value = override.partition("=")
        if key in _OF_TRAINING:
            raise ConfigError(f"{override} would change nothing: {key} is the training's. Set {_OF_TRAINING[key]}.")
        if key == "checkpoint":
            raise ConfigError(f"checkpoint must be best, or left out for the newest, got {value!r}.")
        if not equals or OmegaConf.is_dict(OmegaConf.select(config, key)) or key.startswith("task."):
            raise ConfigError(
                f"{override!r} cannot change a run: its components are those it was trained with. Set single fields, "
                "such as env.level=shift or evaluation.episodes=256."
            )
    try:
        config.merge_with_dotlist(list(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{unknown_key(str(error), config) or error} The run's configuration is {file}.") from error
    validate(config)
    return config


def _shipped() -> DictConfig:
    """What train.yaml itself says: defaults for the keys that a run of an older version lacks."""
    shipped = cast(DictConfig, OmegaConf.load(config_dir() / "train.yaml"))
    return OmegaConf.masked_copy(shipped, [str(key) for key in shipped if key not in ("defaults", "hydra", "run_dir")])


def _trained_agent(path: Path, config: DictConfig, best: bool) -> tuple[Agent, int]:
    """The agent of a run's newest or best checkpoint, and the frames it has learnt from."""
    best_by = best_metric(config) if best else None
    torch.set_num_threads(config.threads)
    env = build_env(config, 1, config.evaluation.seed)
    agent = rebuild_agent(config, env)
    env.close()
    return agent, load_agent(path, agent, best_by)


def _evaluation_folder(path: Path, frames: int, names: Sequence[str]) -> Path:
    folder = path / "-".join(["evaluation", str(frames), *(name.replace("/", "_") for name in names)])
    folder.mkdir(exist_ok=True)
    return folder


def _judge(config: DictConfig, agent: Agent, folder: Path, episodes: int) -> dict[str, float]:
    """Metrics of fresh evaluation episodes, and their video in the folder."""
    env = build_env(config, episodes, config.evaluation.seed)
    try:
        steps = rollout_episodes(env, agent.watched_policy(), config.evaluation.seed)
    finally:
        env.close()
    if config.evaluation.video_episodes:
        gaze_video(folder / "gaze.gif", steps, agent.geometry, config.evaluation.video_episodes)
    return episode_metrics(steps, agent.geometry)
