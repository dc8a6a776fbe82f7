"""The run folder: configuration, CSV files, checkpoints."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation
from torchrl.record.loggers import Logger

from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.assemble import assemble
from gaze_torchrl.training.explain import ConfigError

_CLONE = 'in a clone of the repository pip install -e ".[tensorboard]".'

__all__ = ["RunFolder", "load_agent", "refuse_pickles"]


class RunFolder:
    """A folder that holds one run.

    ::

        config.yaml       the resolved configuration
        metrics.csv       one row per rollout (equal for equal seeds)
        evaluation.csv    one row per evaluation (equal for equal seeds)
        timings.csv       one row per rollout: what differs from machine to machine
        checkpoints/      the last two, in TorchRL's format (tensors and JSON, no pickle)

    Args:
        path: the folder; made if it is missing.
        config: the resolved configuration.

    Raises:
        FileExistsError: if the folder holds a run already.
        ConfigError: if the logger cannot be built.
    """

    def __init__(self, path: str | Path, config: DictConfig) -> None:
        self.path, self.config = Path(path), config
        if (self.path / "config.yaml").exists():
            raise FileExistsError(f"{self.path} holds a run already: choose another run_dir, or move the old run away.")
        self.logger: Logger | None = None
        self._columns: dict[str, list[str]] = {}
        self._rotation = CheckpointRotation(self.path / "checkpoints", keep_last=2)

    def open(self) -> None:
        """Make the folder. Until then nothing is written, so that a run that cannot start leaves nothing behind."""
        if self.config.logger._target_ is not None:
            try:
                self.logger = assemble(self.config.logger, "logger", log_dir=str(self.path))
            except ImportError as error:
                raise ConfigError(
                    f'{error} Install it: pip install "gaze_torchrl[tensorboard]", or {_CLONE}'
                ) from error
        self.path.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, self.path / "config.yaml")

    def log(self, name: str, row: dict[str, float]) -> None:
        """Append a row to ``name``.csv; its ``frames`` is the step in other loggers.

        The first row sets the columns, so that a run that dies leaves a readable file.
        """
        columns = self._columns.setdefault(name, list(row))
        new = not (path := self.path / f"{name}.csv").exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self.logger is not None:
            for key, value in row.items():
                if key != "frames":
                    self.logger.log_scalar(f"{name}/{key}", value, step=int(row["frames"]))

    def save(self, networks: dict[str, nn.Module], frames: int) -> Path:
        """Write a checkpoint, atomically; the older of two goes."""
        checkpoint = Checkpoint(format="archive", **networks)
        return self._rotation.save(checkpoint, step=frames, metadata={"frames": frames})


def load_agent(path: str | Path, agent: Agent) -> int:
    """Load the newest checkpoint of a run into an agent built from its configuration.

    Args:
        path: the run folder; it is only read.
        agent: gets the weights.

    Returns:
        The frames after which the checkpoint was written.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        CheckpointError: if it is torn, does not fit the configuration, or holds anything but tensors and JSON: it is
            refused, never unpickled.
    """
    folder = Path(path) / "checkpoints"
    # By name, not by CheckpointRotation.latest(): that passes over a damaged one without a word.
    newest = max(folder.glob("checkpoint-*"), default=None)
    if newest is None:
        raise FileNotFoundError(f"No checkpoint in {folder}: train until the first evaluation, or give another run.")
    try:
        refuse_pickles(newest)
        # Safe: the archive's checksums were read, and it is unpacked outside the run folder.
        result = Checkpoint(actor=agent.actor).load(newest)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{newest} was refused: {error}") from error
    return int(result.manifest["metadata"]["frames"])


def refuse_pickles(path: Path) -> None:
    """Raise unless the checkpoint is an intact archive of nothing but raw tensors (.memmap) and JSON."""
    with zipfile.ZipFile(path) as archive:
        if torn := archive.testzip():
            raise ValueError(f"{torn} inside is damaged. Delete the file, and the run's older checkpoint is used.")
        strangers = [name for name in archive.namelist() if not name.endswith((".memmap", ".json", "/"))]
    if strangers:
        raise ValueError(f"it holds {strangers[:3]}, and only tensors (.memmap) and JSON are loaded.")
