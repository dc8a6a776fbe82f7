"""What no single component can check of a configuration: keys that nothing reads, values, and what fits together."""

from __future__ import annotations

import functools
import math
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gaze_torchrl.training.explain import ConfigError, config_dir, groups, listing

__all__ = ["validate"]


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
    for parent, keys in _known_keys(str(config.loss.get("loop"))).items():
        node = OmegaConf.select(config, parent) if parent else config
        emptied = node is None and parent in config  # a part that is elsewhere, such as loss.replay, may be missing
        if emptied or (node is not None and not OmegaConf.is_dict(node)):
            raise ConfigError(f"{parent}={'null' if emptied else repr(node)} sets no key. {listing(keys, parent)}")
        if strangers := sorted({str(key) for key in node or ()} - keys) if keys else []:
            name = ".".join(filter(None, [parent, strangers[0]]))
            raise ConfigError(f"Unknown key {name!r}: nothing reads it. {listing(keys, parent)}")
    if (head := config.gaze.get("head")) is not None and not OmegaConf.is_dict(head):
        raise ConfigError(f"gaze.head={head} chooses nothing: a head is chosen with a slash, gaze/head={head}.")


@functools.cache  # reading the files takes longer than all other checks
def _known_keys(loop: str) -> dict[str, set[str]]:
    """What is read below each key, with the losses of one loop."""
    shipped = OmegaConf.load(config_dir() / "train.yaml")
    losses: list[Any] = [OmegaConf.load(path) for path in (config_dir() / "loss").glob("*.yaml")]
    mine = [loss for loss in losses if loss.loop == loop]
    known = {
        "": {*shipped, *(group for group in groups() if "/" not in group)} - {"defaults", "experiment", "hydra"},
        "bank": set(shipped.bank),
        "evaluation": set(shipped.evaluation),
        "checkpoint": set(shipped.checkpoint),
        "task": {"name", "env", "gamma", "level", "objects", "horizon", "control_mode", "proprio"},
        "loss": {key for loss in mine for key in loss},
        "loss.replay": {key for loss in mine for key in loss.get("replay", {})},
        "loss.gae": {key for loss in mine for key in loss.get("gae", {})},
    }
    return {parent: {str(key) for key in keys} for parent, keys in known.items()}


def _check_values(config: DictConfig) -> None:
    loss, contrast = config.loss, config.contrast._target_ is not None
    replay = loss.get("replay", {})
    counts = {
        "total_frames": config.total_frames,
        "threads": config.threads,
        "collector.frames_per_batch": config.collector.frames_per_batch,
        **{f"collector.{key}": config.collector[key] for key in ("num_collectors",) if key in config.collector},
        "env.num_envs": config.env.num_envs,
        "loss.minibatch": loss.minibatch,
        "loss.hidden": loss.hidden,
        "evaluation.every": config.evaluation.every,
        "evaluation.episodes": config.evaluation.episodes,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_last": config.checkpoint.keep_last,
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
        "contrast.pretrain_frames": config.contrast.get("pretrain_frames", 0),  # runs of older versions know none
    }
    for key, value in wholes.items():
        _check(key, value, "an integer >= 0", isinstance(value, int) and value >= 0)
    positive = {f"loss.{key}": loss[key] for key in ("learning_rate", "updates_per_frame") if key in loss}
    positive |= {f"loss.replay.{key}": replay[key] for key in ("spare",) if key in replay}
    if loss.max_grad_norm is not None:
        positive["loss.max_grad_norm"] = loss.max_grad_norm
    if contrast:
        positive["contrast.max_grad_norm"] = config.contrast.max_grad_norm
        for key in ("own_learning_rate", "anneal_frames"):  # runs of older versions know none
            if (value := config.contrast.get(key)) is not None:
                positive[f"contrast.{key}"] = value
    for key, value in positive.items():
        _check(key, value, "a positive number", isinstance(value, int | float) and 0 < value < math.inf)
    _check("loss.initial_log_std", loss.initial_log_std, "a number", isinstance(loss.initial_log_std, int | float))
    shares = {"task.gamma": config.task.gamma, **{f"loss.gae.{k}": v for k, v in loss.get("gae", {}).items()}}
    for key, value in shares.items():
        _check(key, value, "a number in [0, 1]", isinstance(value, int | float) and 0 <= value <= 1)
    if "tau" in loss:
        _check("loss.tau", loss.tau, "a number in (0, 1]", isinstance(loss.tau, int | float) and 0 < loss.tau <= 1)
    switches = {
        "dry_run": config.dry_run,
        **{f"gaze.{key}": config.gaze[key] for key in ("rl_gradient", "condition")},
    }
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, got {value!r}.")
    if not isinstance(config.compile, bool) and config.compile != "reduce-overhead":
        raise ConfigError(f"compile must be true, false or reduce-overhead, got {config.compile!r}.")
    _check("device", config.device, "the name of a device, such as cpu or cuda", isinstance(config.device, str))


def _check_fit(config: DictConfig) -> None:
    env = _plain(config.env._target_.rpartition(".")[-1].removesuffix("Env"))
    if _plain(config.task.env) != env:
        tasks = {path.stem: OmegaConf.load(path).env for path in (config_dir() / "task").glob("*.yaml")}
        mine = sorted(task for task, its in tasks.items() if _plain(its) == env)
        raise ConfigError(
            f"task={config.task.name} belongs to env={config.task.env}, but env={env} was chosen; its tasks are {mine}."
        )
    frames, lanes, loss = config.collector.frames_per_batch, config.env.num_envs, config.loss
    if frames % lanes:
        raise ConfigError(f"collector.frames_per_batch = {frames} must be a multiple of env.num_envs = {lanes}.")
    if lanes % (shares := config.collector.get("num_collectors", 1)):
        raise ConfigError(f"env.num_envs = {lanes} must be a multiple of collector.num_collectors = {shares}.")
    learnt = config.total_frames // frames * frames  # in whole rollouts
    if config.total_frames < frames:
        raise ConfigError(
            f"total_frames = {config.total_frames} is less than one rollout, collector.frames_per_batch = {frames}."
        )
    _check_off_policy(config, learnt) if "replay" in loss else _check_on_policy(config)
    target, regularizer = config.contrast.get("target"), config.regularizer
    _check_schedule(config, learnt)
    if target is not None:
        if config.bank.capacity < frames:
            raise ConfigError(
                f"bank.capacity = {config.bank.capacity} is smaller than one rollout, "
                f"collector.frames_per_batch = {frames}: the bank must hold a batch."
            )
        steps, capacity = config.bank.min_steps, config.bank.capacity
        limits = {f"bank.capacity = {capacity}": capacity, f"total_frames = {learnt} in whole rollouts": learnt}
        for name, limit in limits.items():
            if steps > limit:
                raise ConfigError(f"bank.min_steps = {steps} exceeds {name}: no triplet would form.")
    if config.contrast.get("reduction") == "none":
        raise ConfigError("contrast.reduction=none is for loops of one's own: choose mean or sum.")
    for key, why in _NOT_HERE.items():
        if OmegaConf.select(config, key):
            raise ConfigError(f"{key} is not for gaze-train: {why}")
    if loss.get("objective", {}).get("reduction", "mean") != "mean":
        raise ConfigError("loss.objective.reduction must be mean: gradients of sums depend on loss.minibatch.")
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


# Options of TorchRL's collectors that would spoil a run.
_NOT_HERE = {
    "collector.split_trajs": "the padding that it adds would be learnt from. Leave it out.",
    "collector.total_frames": "set total_frames.",
}


def _check_schedule(config: DictConfig, learnt: int) -> None:
    contrast, frames, loss = config.contrast, config.collector.frames_per_batch, config.loss
    last, alone = contrast.get("anneal_frames"), contrast.get("pretrain_frames", 0)
    # The update of the first rollout after which there are triplets, or anything is learnt at all.
    needed = max(config.bank.min_steps if "target" in contrast else 0, loss.get("warmup", 0), 1)
    first = -(-needed // frames) * frames
    if last and last <= first:
        raise ConfigError(
            f"contrast.anneal_frames = {last} is over before the contrast begins, after {first} frames: raise it, or "
            "set contrast=none."
        )
    if last and contrast.get("own_learning_rate") is not None:
        raise ConfigError(
            "contrast.anneal_frames lowers a weight, and steps of contrast.own_learning_rate do not depend on it: set "
            "one of the two to null."
        )
    if last and not config.gaze.rl_gradient:
        raise ConfigError(
            "gaze.rl_gradient=false with contrast.anneal_frames leaves the gaze untrained in the end: set "
            "contrast.anneal_frames=null."
        )
    if alone and not first <= alone < learnt:
        raise ConfigError(
            f"contrast.pretrain_frames = {alone} must be 0, or at least the {first} frames after which the contrast "
            f"begins, and less than total_frames = {learnt} in whole rollouts, so that the policy learns, too."
        )
    if alone and loss.get("objective", {}).get("_target_", "").endswith("KLPENPPOLoss"):
        raise ConfigError(
            "contrast.pretrain_frames with loss=kl_ppo: its weight of the divergence adapts at every step, and would "
            "fall to zero while the policy waits. Set pretrain_frames=0, or choose loss=ppo."
        )
    if last and alone >= last:
        raise ConfigError(
            f"contrast.pretrain_frames = {alone} outlast contrast.anneal_frames = {last}: nothing would learn in "
            "between. Raise the latter, or set it to null."
        )


def _check_on_policy(config: DictConfig) -> None:
    frames, minibatch = config.collector.frames_per_batch, config.loss.minibatch
    if frames % minibatch:
        raise ConfigError(
            f"loss.minibatch = {minibatch} must divide collector.frames_per_batch = {frames}: a rollout is one buffer."
        )
    if config.loss.policy == "deterministic":
        raise ConfigError("loss.policy=deterministic cannot be learnt on policy: choose normal or tanh_normal.")


def _check_off_policy(config: DictConfig, learnt: int) -> None:
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
    limits = {f"loss.replay.capacity = {capacity}": capacity, f"total_frames = {learnt} in whole rollouts": learnt}
    for name, limit in limits.items():
        if loss.warmup > limit:
            raise ConfigError(f"loss.warmup = {loss.warmup} exceeds {name}: nothing would be learnt.")
    if config.task.gamma == 0:
        raise ConfigError("task.gamma must be positive for a loss with a replay buffer, got 0.")


def _plain(name: str) -> str:
    """DMControl and dm_control are one environment."""
    return name.replace("_", "").lower()


def _check(key: str, value: object, wanted: str, fine: bool) -> None:
    if not fine or isinstance(value, bool):
        raise ConfigError(f"{key} must be {wanted}, got {value!r}.")
