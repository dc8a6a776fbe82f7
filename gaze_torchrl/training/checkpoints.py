"""Checkpoints: what is refused of them, and how networks are loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig
from torch import nn
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation

from gaze_torchrl import __version__
from gaze_torchrl.training.agent import Agent
from gaze_torchrl.training.explain import ConfigError

__all__ = ["FORMAT", "NetworkRotation", "best_metric", "check_format", "load_agent", "load_networks", "refuse_pickles"]

FORMAT = 1
"""Of saved states and networks. Raise it when what is saved changes, or what it means."""


def best_metric(config: DictConfig) -> str:
    """The metric by which a run's best networks are kept.

    Args:
        config: of the run.

    Raises:
        ConfigError: if none are kept.
    """
    if (metric := config.checkpoint.keep_best) is None:
        raise ConfigError("checkpoint=best needs a run with checkpoint.keep_best, which this one has null.")
    return str(metric)


def load_agent(path: str | Path, agent: Agent, best: str | None = None) -> int:
    """Load the newest checkpoint of a run into an agent built from its configuration, or the best.

    Args:
        path: the run folder; it is only read.
        agent: gets the weights.
        best: the metric of which the checkpoint with the greatest value is loaded; None for the newest.

    Returns:
        The frames after which the checkpoint was written.

    Raises:
        FileNotFoundError, CheckpointError: as `load_networks`.
    """
    return load_networks(path, {"actor": agent.actor}, best)


def load_networks(path: str | Path, networks: dict[str, nn.Module], best: str | None = None) -> int:
    """Load networks of the newest checkpoint of a run, or of the best.

    Args:
        path: the run folder; it is only read.
        networks: get the weights; some or all of those that `RunFolder.save_networks` was given, by name.
        best: as for `load_agent`.

    Returns:
        The frames after which the checkpoint was written.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        CheckpointError: if it is torn, does not fit the configuration, or holds anything but tensors and JSON: it is
            refused, never unpickled.
    """
    folder = Path(path) / "checkpoints"
    # By name, not by CheckpointRotation.latest(): that passes over a damaged one without a word.
    chosen = max(folder.glob("checkpoint-*"), default=None)
    if chosen is not None and best is not None:
        chosen = CheckpointRotation(folder, keep_last=1, keep_best=(best, "max")).best()
    if chosen is None:
        raise FileNotFoundError(f"No checkpoint in {folder}: train until the first evaluation, or give another run.")
    with _naming(chosen):
        refuse_pickles(chosen)
        metadata = Checkpoint.manifest(chosen)["metadata"]
    check_format(chosen, metadata)
    with _naming(chosen):
        # Safe: the archive's checksums were read, and it is unpacked outside the run folder.
        device = next(parameter.device for one in networks.values() for parameter in one.parameters())
        Checkpoint(**networks).load(chosen, map_location=device)
    return int(metadata["frames"])


def check_format(path: Path, metadata: dict) -> None:
    """Raise unless what was saved means what this version takes it to mean.

    Args:
        path: of the archive.
        metadata: which it holds.

    Raises:
        CheckpointError: with the version that wrote it.
    """
    if (found := metadata.get("format", 0)) != FORMAT:
        raise CheckpointError(
            f"{path} has format {found}, written by gaze_torchrl {metadata.get('version', 'before 0.1')}; this is "
            f"{__version__}, which reads format {FORMAT}: use the version that wrote it."
        )


def refuse_pickles(path: Path) -> None:
    """Raise unless the checkpoint is an intact archive of nothing but raw tensors (.memmap) and JSON."""
    with zipfile.ZipFile(path) as archive:
        if torn := archive.testzip():
            raise ValueError(f"{torn} inside is damaged. Delete the file, and the run's older checkpoint is used.")
        strangers = [name for name in archive.namelist() if not name.endswith((".memmap", ".json", "/"))]
    if strangers:
        raise ValueError(f"it holds {strangers[:3]}, and only tensors (.memmap) and JSON are loaded.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} was refused: {error}") from error


class NetworkRotation(CheckpointRotation):
    """TorchRL's rotation of the newest and the best, which also keeps what a state of the run goes back to.

    A run that goes back would not make them again where its episodes begin anew.

    Args:
        directory, keep_last, keep_best, prefix: as for ``CheckpointRotation``.
    """

    _pinned: tuple[set[Path], ...] = ()

    def pin(self) -> None:
        """A state was saved, of which the last two are kept: what there is now belongs to it."""
        self._pinned = (*self._pinned[-1:], self._retained())

    def release(self) -> None:
        """There are no states any more."""
        self._pinned = ()
        self.prune()

    def prune(self) -> tuple[Path, ...]:
        """Remove what neither the rotation nor a state needs; returns what went."""
        kept = self._retained().union(*self._pinned)
        removed = tuple(path for path in self.checkpoints() if path not in kept)
        for path in removed:
            path.unlink()
        return removed

    def _retained(self) -> set[Path]:
        best = self.best()
        return {*self.checkpoints()[-self.keep_last :], *([] if best is None else [best])}
