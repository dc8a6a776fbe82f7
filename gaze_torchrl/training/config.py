"""The configuration: where the YAML lives, what it must not say, and errors that list what exists."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins as HydraPlugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gaze_torchrl.registry import entries, load_plugins

__all__ = [
    "ConfigError",
    "add_plugins",
    "compose_config",
    "config_dir",
    "current_names",
    "explain",
    "groups",
    "unknown_key",
    "validate",
]


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
    overrides = current_names(overrides)
    add_plugins()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            config = compose("train", list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(explain(error, overrides)) from error
    config = _without_hydra(config, keep_run_dir=any(one.startswith("run_dir=") for one in overrides))
    validate(config)
    return config


def add_plugins() -> None:
    """Make the components and the YAML of installed plug-ins choices like ours; a broken one is reported by name."""
    plugins = load_plugins()
    for name, reason in plugins.broken.items():
        warnings.warn(f"The plug-in {name!r} is broken and was left out: {reason}", stacklevel=2)
    HydraPlugins.instance().register(_PluginYAML)
    for entry in entries():
        ours, mine = (f"{entry.group}/{entry.name}.yaml", entry.path.startswith("gaze_torchrl."))
        if (config_dir() / ours).is_file() and not mine:
            warnings.warn(f"{entry.path} was left out: {entry.group}={entry.name} is taken.", stacklevel=2)
        # A component without a YAML file gets the one its signature gives.
        elif not any((folder / ours).is_file() for folder in (config_dir(), *plugins.folders.values())):
            try:
                ConfigStore.instance().store(group=entry.group, name=entry.name, node=entry.node)
            except OmegaConfBaseException as error:
                warnings.warn(f"{entry.path} was left out: YAML cannot hold its defaults ({error}).", stacklevel=2)


class _PluginYAML(SearchPathPlugin):
    """Adds the ``configs`` folders of plug-ins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for name, folder in load_plugins().folders.items():
            search_path.append(name, f"file://{folder}")


def groups() -> list[str]:
    """The groups of ``configs``, nested ones with a slash, such as ``gaze/head``."""
    return sorted(path.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*") if path.is_dir())


def current_names(overrides: Sequence[str]) -> list[str]:
    """Overrides with the choices that were renamed under their new names, and a warning."""
    current = []
    for override in overrides:
        new = RENAMED.get(override)
        if new is not None:
            warnings.warn(f"{override} is now {' '.join(new)}; the old name will go.", FutureWarning, stacklevel=2)
        current += new or [override]
    return current


# Choices of older versions.
RENAMED = {
    "gaze=foveal_mlp": ["gaze=foveal", "gaze/head=mlp"],
    "experiment=maniskill": ["experiment=ppo_maniskill"],
}


def validate(config: DictConfig) -> None:
    """Check what no single component can, before anything is built.

    Args:
        config: the composed configuration.

    Raises:
        ConfigError: with the key and what it must be, or with both values of what does not fit.
    """
    _check_keys(config)
    _check_values(config)
    _check_fit(config)


def _check_keys(config: DictConfig) -> None:
    """Keys that nothing reads; those of a component are its constructor's to refuse."""
    shipped = OmegaConf.load(config_dir() / "train.yaml")
    losses: list[Any] = [OmegaConf.load(path) for path in (config_dir() / "loss").glob("*.yaml")]
    mine = [loss for loss in losses if loss.loop == config.loss.get("loop")]
    known = {
        "": {*shipped, *(group for group in groups() if "/" not in group)} - {"defaults", "experiment", "hydra"},
        "bank": set(shipped.bank),
        "evaluation": set(shipped.evaluation),
        "task": {"name", "env", "gamma"},
        "loss": {key for loss in mine for key in loss},
        "loss.replay": {key for loss in mine for key in loss.get("replay", {})},
        "loss.gae": {key for loss in mine for key in loss.get("gae", {})},
    }
    for parent, keys in known.items():
        node = OmegaConf.select(config, parent) if parent else config
        if strangers := sorted({str(key) for key in node or ()} - {str(key) for key in keys}) if keys else []:
            name = ".".join(filter(None, [parent, strangers[0]]))
            raise ConfigError(f"Unknown key {name!r}: nothing reads it. {_listing(keys, parent)}")


def _check_values(config: DictConfig) -> None:
    loss, contrast = config.loss, config.contrast._target_ is not None
    replay = loss.get("replay", {})
    counts = {
        "total_frames": config.total_frames,
        "threads": config.threads,
        "collector.frames_per_batch": config.collector.frames_per_batch,
        "env.num_envs": config.env.num_envs,
        "loss.minibatch": loss.minibatch,
        "loss.hidden": loss.hidden,
        "evaluation.every": config.evaluation.every,
        "evaluation.episodes": config.evaluation.episodes,
        **{f"bank.{key}": value for key, value in config.bank.items()},
        **{f"loss.{key}": loss[key] for key in ("epochs",) if key in loss},
        **{f"loss.replay.{key}": replay[key] for key in ("capacity", "n_steps") if key in replay},
    }
    for key, value in counts.items():
        _check(key, value, "a positive integer", isinstance(value, int) and value > 0)
    wholes = {
        "seed": config.seed,
        "evaluation.seed": config.evaluation.seed,
        "evaluation.video_episodes": config.evaluation.video_episodes,
        "loss.warmup": loss.get("warmup", 0),
    }
    for key, value in wholes.items():
        _check(key, value, "an integer >= 0", isinstance(value, int) and value >= 0)
    positive = {f"loss.{key}": loss[key] for key in ("learning_rate", "updates_per_frame") if key in loss}
    positive |= {f"loss.replay.{key}": replay[key] for key in ("spare",) if key in replay}
    if loss.max_grad_norm is not None:
        positive["loss.max_grad_norm"] = loss.max_grad_norm
    if contrast:
        positive["contrast.max_grad_norm"] = config.contrast.max_grad_norm
    for key, value in positive.items():
        _check(key, value, "a positive number", isinstance(value, int | float) and 0 < value < math.inf)
    _check("loss.initial_log_std", loss.initial_log_std, "a number", isinstance(loss.initial_log_std, int | float))
    shares = {"task.gamma": config.task.gamma, **{f"loss.gae.{k}": v for k, v in loss.get("gae", {}).items()}}
    for key, value in shares.items():
        _check(key, value, "a number in [0, 1]", isinstance(value, int | float) and 0 <= value <= 1)
    if "tau" in loss:
        _check("loss.tau", loss.tau, "a number in (0, 1]", isinstance(loss.tau, int | float) and 0 < loss.tau <= 1)
    for key in ("rl_gradient", "condition"):
        if not isinstance(config.gaze[key], bool):
            raise ConfigError(f"gaze.{key} must be true or false, got {config.gaze[key]!r}.")
    _check("device", config.device, "the name of a device, such as cpu or cuda", isinstance(config.device, str))


def _check_fit(config: DictConfig) -> None:
    env = _plain(config.env._target_.rpartition(".")[-1].removesuffix("Env"))
    if _plain(config.task.env) != env:
        tasks = {path.stem: OmegaConf.load(path).env for path in (config_dir() / "task").glob("*.yaml")}
        mine = sorted(task for task, its in tasks.items() if _plain(its) == env)
        raise ConfigError(
            f"task={config.task.name} belongs to env={config.task.env}, but env={env} was chosen; its tasks are {mine}."
        )
    if config.task.name == "shift":
        warnings.warn(
            "task=shift is held out for evaluation: results of agents trained on it mean little.", stacklevel=2
        )
    frames, lanes, loss = config.collector.frames_per_batch, config.env.num_envs, config.loss
    if frames % lanes:
        raise ConfigError(f"collector.frames_per_batch = {frames} must be a multiple of env.num_envs = {lanes}.")
    if config.total_frames < frames:
        raise ConfigError(
            f"total_frames = {config.total_frames} is less than one rollout, collector.frames_per_batch = {frames}."
        )
    _check_off_policy(config) if "replay" in loss else _check_on_policy(config)
    target, regularizer = config.contrast.get("target"), config.regularizer
    if target is not None:
        if config.bank.capacity < frames:
            raise ConfigError(
                f"bank.capacity = {config.bank.capacity} is smaller than one rollout, "
                f"collector.frames_per_batch = {frames}: the bank must hold a batch."
            )
        if config.bank.min_steps > config.total_frames:
            raise ConfigError(
                f"bank.min_steps = {config.bank.min_steps} exceeds total_frames = {config.total_frames}: no triplet "
                "would form."
            )
    if config.contrast.get("reduction") == "none":
        raise ConfigError("contrast.reduction=none is for loops of one's own: choose mean or sum.")
    if not config.gaze.rl_gradient and target not in ("gaze", "both"):
        raise ConfigError("gaze.rl_gradient=false leaves the gaze untrained: it needs contrast.target=gaze or both.")
    if not config.gaze.rl_gradient and target == "gaze" and config.readout._target_.endswith("KeypointReadout"):
        raise ConfigError(
            "gaze.rl_gradient=false with readout=keypoints, which reads the gaze alone, leaves the encoder untrained: "
            "choose another readout, or contrast.target=both."
        )
    if not config.gaze.rl_gradient and regularizer._target_ is not None:
        raise ConfigError("gaze.rl_gradient=false keeps the regulariser from the gaze: add regularizer=none.")
    if regularizer.get("drift") and (
        config.augment._target_ is not None or loss.get("replay", {}).get("n_steps", 1) > 1
    ):
        raise ConfigError(
            "regularizer.drift compares a step with the next one: it needs augment=none and loss.replay.n_steps=1."
        )


def _check_on_policy(config: DictConfig) -> None:
    frames, minibatch = config.collector.frames_per_batch, config.loss.minibatch
    if frames % minibatch:
        raise ConfigError(
            f"loss.minibatch = {minibatch} must divide collector.frames_per_batch = {frames}: a rollout is one buffer."
        )
    if config.loss.policy == "deterministic":
        raise ConfigError("loss.policy=deterministic cannot be learnt on policy: choose normal or tanh_normal.")


def _check_off_policy(config: DictConfig) -> None:
    frames, lanes, loss = config.collector.frames_per_batch, config.env.num_envs, config.loss
    capacity = loss.replay.capacity
    if frames > capacity:
        raise ConfigError(
            f"loss.replay.capacity = {capacity} is smaller than one rollout, collector.frames_per_batch = {frames}."
        )
    if loss.replay.spare <= lanes / frames:
        raise ConfigError(
            f"loss.replay.spare = {loss.replay.spare} is too little for rollouts of {frames // lanes} steps, each with "
            f"a last frame: set it above {lanes / frames:.2g}, or raise collector.frames_per_batch."
        )
    for key, limit in (("loss.replay.capacity", capacity), ("total_frames", config.total_frames)):
        if loss.warmup > limit:
            raise ConfigError(f"loss.warmup = {loss.warmup} exceeds {key} = {limit}: nothing would be learnt.")
    if config.task.gamma == 0:
        raise ConfigError("task.gamma must be positive for a loss with a replay buffer, got 0.")


def _plain(name: str) -> str:
    """DMControl and dm_control are one environment."""
    return name.replace("_", "").lower()


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
    if match := re.search(r"Could not override '([\w/]+)'\. No match in the defaults list", text):
        group, _, part = match[1].rpartition("/")
        return f"There is no {match[1]} to choose: {group}={_chosen(group, overrides)} has no {part}."
    if match := re.search(r"Could not find '([\w/]+)/([\w-]+)'", text):
        close = difflib.get_close_matches(
            match[2], [path.stem for path in (config_dir() / match[1]).glob("*.yaml")], n=1
        )
        text = text.replace(match[0], f"{match[0]}. Did you mean {close[0]!r}?" if close else match[0], 1)
    if match := re.search(r"Could not override '([\w.]+)'", text):
        known = {*groups(), "hydra.searchpath"}
        choices = [override for override in current_names(overrides) if override.partition("=")[0] in known]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            default = compose("train", choices)
        return _unknown(match[1], default)
    return re.sub(r"^In 'train': |\nConfig search path:(.|\n)*", "", text)


def unknown_key(error: str, config: DictConfig) -> str | None:
    """What exists where OmegaConf found no such key in a configuration; None for other errors."""
    match = re.search(r"full_key: ([\w.]+)", error)
    return _unknown(match[1], config) if match and "is not in struct" in error else None


def _unknown(name: str, config: DictConfig) -> str:
    parent, _, key = name.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    close = difflib.get_close_matches(key, node or [], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown key {name!r}.{hint} {_listing(node, parent)}"


def _chosen(group: str, overrides: Sequence[str]) -> str:
    return next((one.partition("=")[2] for one in reversed(overrides) if one.startswith(f"{group}=")), "?")


def _listing(node: Any, name: str) -> str:
    keys = sorted(str(key) for key in node if key != "_target_") if isinstance(node, DictConfig | set) else []
    return f"{name or 'The configuration'} has {keys}."


def _without_hydra(config: DictConfig, keep_run_dir: bool) -> DictConfig:
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    # ${hydra:...} resolves inside a run only; here the folder's name is all that depends on it.
    if not keep_run_dir:
        config.run_dir = f"runs/{config.task.name}-{choices['gaze']}-{choices['contrast']}-seed{config.seed}"
    OmegaConf.resolve(config)
    OmegaConf.set_struct(config, True)
    return config
