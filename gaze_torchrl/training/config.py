"""The configuration: where the YAML lives, what it must not say, and errors that list what exists."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

__all__ = ["ConfigError", "compose_config", "config_dir", "explain", "validate"]


class ConfigError(ValueError):
    """A choice or a value that cannot be; the message says what exists."""


def config_dir() -> Path:
    """Folder of the YAML files: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose ``train.yaml`` as ``gaze-train`` does, without running anything.

    Args:
        overrides: as on the command line, such as ``["task=hard", "gaze.num_foveae=1"]``.

    Returns:
        The configuration, validated.

    Raises:
        ConfigError: for an unknown choice or key, or a value that cannot be.

    Example:
        >>> compose_config(["task=hard"]).task.name
        'hard'
    """
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(explain(error, overrides)) from error
    config = _without_hydra(config)
    validate(config, overrides)
    return config


def validate(config: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Check what no single component can, before anything is built.

    Args:
        config: the composed configuration.
        overrides: the command line it came from; added keys (``+key=value``) must belong to a component.

    Raises:
        ConfigError: with both values of what does not fit.
    """
    for override in overrides:
        if match := re.match(r"\++([\w.]+)=", override):
            parent = match[1].rpartition(".")[0]
            node = OmegaConf.select(config, parent) if parent else config
            if not (isinstance(node, DictConfig) and "_target_" in node):
                raise ConfigError(f"Unknown key {match[1]!r}: nothing reads it. {_listing(node, parent)}")
    env = config.env._target_.rpartition(".")[-1].removesuffix("Env").lower()
    if config.task.env != env:
        tasks = sorted(path.stem for path in (config_dir() / "task").glob("*.yaml"))
        mine = [task for task in tasks if OmegaConf.load(config_dir() / "task" / f"{task}.yaml").env == env]
        raise ConfigError(
            f"task={config.task.name} belongs to env={config.task.env}, but env={env} was chosen; its tasks are {mine}."
        )
    frames, lanes, minibatch = config.collector.frames_per_batch, config.env.num_envs, config.loss.minibatch
    counts = {
        "total_frames": config.total_frames,
        "threads": config.threads,
        "collector.frames_per_batch": frames,
        "env.num_envs": lanes,
        "loss.minibatch": minibatch,
        "loss.epochs": config.loss.epochs,
        "evaluation.every": config.evaluation.every,
        "evaluation.episodes": config.evaluation.episodes,
    }
    for key, value in counts.items():
        _check(key, value, "a positive integer", isinstance(value, int) and value > 0)
    for key, value in {"seed": config.seed, "evaluation.seed": config.evaluation.seed}.items():
        _check(key, value, "an integer >= 0", isinstance(value, int) and value >= 0)
    positive = {"loss.learning_rate": config.loss.learning_rate, "loss.max_grad_norm": config.loss.max_grad_norm}
    if config.contrast._target_ is not None:
        positive["contrast.max_grad_norm"] = config.contrast.max_grad_norm
    for key, value in positive.items():
        _check(key, value, "a positive number", isinstance(value, int | float) and value > 0)
    for key, value in {
        "task.gamma": config.task.gamma,
        **{f"loss.gae.{k}": v for k, v in config.loss.gae.items()},
    }.items():
        _check(key, value, "a number in [0, 1]", isinstance(value, int | float) and 0 <= value <= 1)
    if frames % lanes:
        raise ConfigError(f"collector.frames_per_batch = {frames} must be a multiple of env.num_envs = {lanes}.")
    if frames % minibatch:
        raise ConfigError(
            f"loss.minibatch = {minibatch} must divide collector.frames_per_batch = {frames}: a rollout is one buffer."
        )
    if config.total_frames < frames:
        raise ConfigError(
            f"total_frames = {config.total_frames} is less than one rollout, collector.frames_per_batch = {frames}."
        )
    if config.contrast._target_ is not None:
        if config.miner.capacity < frames:
            raise ConfigError(
                f"miner.capacity = {config.miner.capacity} is smaller than one rollout, "
                f"collector.frames_per_batch = {frames}: the bank must hold a batch."
            )
        if config.gaze._target_.endswith("NoGaze"):
            raise ConfigError("gaze=none has nothing for the contrastive loss to train: add contrast=none.")
    elif not config.gaze.rl_gradient:
        raise ConfigError("gaze.rl_gradient=false with contrast=none leaves the gaze untrained: change one of them.")


def _check(key: str, value: object, wanted: str, fine: bool) -> None:
    if not fine or isinstance(value, bool):
        raise ConfigError(f"{key} must be {wanted}, got {value!r}.")


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """What Hydra said, and what exists where it found nothing.

    Args:
        error: Hydra's.
        overrides: the command line it came from; its choices of groups decide which keys exist.
    """
    chain, cause = [str(error)], error.__cause__
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    text = "\n".join(dict.fromkeys(line for part in chain for line in part.splitlines() if line.strip()))
    if match := re.search(r"Could not override '([\w.]+)'", text):
        parent, _, key = match[1].rpartition(".")
        groups = {path.name for path in config_dir().iterdir() if path.is_dir()}
        choices = [override for override in overrides if override.partition("=")[0] in groups]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            default = compose("train", choices)
        node = OmegaConf.select(default, parent) if parent else default
        close = difflib.get_close_matches(key, node or [], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"Unknown key {match[1]!r}.{hint} {_listing(node, parent)}"
    return re.sub(r"^In 'train': |\nConfig search path:(.|\n)*", "", text)


def _listing(node: Any, name: str) -> str:
    keys = sorted(str(key) for key in node if key != "_target_") if isinstance(node, DictConfig) else []
    return f"{name or 'The configuration'} has {keys}."


def _without_hydra(config: DictConfig) -> DictConfig:
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    # ${hydra:...} resolves inside a run only; here the folder's name is all that depends on it.
    config.run_dir = f"runs/{config.task.name}-{choices['gaze']}-{choices['contrast']}-seed{config.seed}"
    OmegaConf.resolve(config)
    OmegaConf.set_struct(config, True)
    return config
