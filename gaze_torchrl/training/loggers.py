"""TorchRL's loggers, beside the CSV files: opened for a run, and closed with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torchrl.record.loggers import Logger

from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.explain import ConfigError

__all__ = ["close_logger", "open_logger"]


def open_logger(config: DictConfig, folder: Path, frames: int = 0) -> Logger | None:
    """The configured logger, told the configuration.

    Args:
        config: the whole configuration.
        folder: the run's.
        frames: where the run goes on; what TensorBoard was told of later ones is taken back.

    Returns:
        The logger; None for CSV files alone.

    Raises:
        ConfigError: if its package is not installed, or it refuses an option.
    """
    if config.logger._target_ is None:
        return None
    # W&B goes on with a run of the same name; offline, `wandb sync` joins them.
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    try:
        logger = assemble(config.logger, "logger", log_dir=str(folder), id=name)
    except ImportError as error:
        extra = config.logger._target_.rpartition(".")[-1].removesuffix("Logger").lower()
        raise ConfigError(
            f'{error} Install it: pip install "gaze_torchrl[{extra}]", or in a clone of the repository '
            f'pip install -e ".[{extra}]".'
        ) from error
    logger.log_hparams(dict(_flat(config)))
    if frames and type(logger).__name__ == "TensorboardLogger":
        _purge_tensorboard(logger, frames + 1)
    return logger


def _purge_tensorboard(logger: Any, step: int) -> None:
    """What ``SummaryWriter(purge_step=...)`` does, which TorchRL's logger has no argument for."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer = logger.experiment.file_writer
    writer.add_event(Event(step=step, file_version="brain.Event:2"))
    writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))


def close_logger(logger: Logger | None) -> None:
    """Write what is left, and end the logger's run, so that the same process can begin another."""
    if logger is None:
        return
    logger.close()
    if type(logger).__name__ == "MLFlowLogger":  # which knows one run at a time, and does not close it
        import mlflow

        mlflow.end_run()


def _flat(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Single values by their dotted keys, as loggers take them."""
    for key, value in node.items():
        name = f"{prefix}{key!s}"
        if isinstance(value, DictConfig):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, bool | int | float | str) else str(value)
