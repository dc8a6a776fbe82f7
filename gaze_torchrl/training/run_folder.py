"""The run folder: configuration, CSV files, checkpoints."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchrl.checkpoint import Checkpoint, CheckpointError, CheckpointRotation
from torchrl.record.loggers import Logger

from gaze_torchrl import __version__
from gaze_torchrl.training.checkpoints import FORMAT, NetworkRotation, check_format, refuse_pickles
from gaze_torchrl.training.guards import NonFinite
from gaze_torchrl.training.loggers import close_logger, open_logger
from gaze_torchrl.training.run_state import RunState

LOGS = ("metrics", "evaluation", "timings")

__all__ = ["RunFolder", "is_complete", "read_rows"]


class RunFolder:
    """A folder that holds one run.

    ::

        config.yaml       the resolved configuration
        metrics.csv       one row per rollout (equal for equal seeds)
        evaluation.csv    one row per evaluation (equal for equal seeds)
        timings.csv       one row per rollout: what differs from machine to machine
        checkpoints/      networks of the last evaluations and of the best one (tensors and JSON, no pickle)
        state/            while the run is not complete, its whole state, twice (likewise)

    Args:
        path: the folder; made if it is missing.
        config: the resolved configuration.
        resume: go on with the run that the folder holds.

    Raises:
        FileExistsError: if the folder holds a run already, and it is not to be resumed.
        ConfigError: if the logger cannot be built.
    """

    def __init__(self, path: str | Path, config: DictConfig, resume: bool = False) -> None:
        self.path, self.config, self.resume = Path(path), config, resume
        if (self.path / "config.yaml").exists() and not resume:
            raise FileExistsError(
                f"{self.path} holds a run already: choose another run_dir, move the old run away, or go on with it by "
                f"gaze-train resume={self.path}"
            )
        self.logger: Logger | None = None
        self._columns: dict[str, list[str]] = {}
        self._state: Path | None = None
        self._lock: int | None = None
        best = config.checkpoint.keep_best
        self._networks = NetworkRotation(
            self.path / "checkpoints",
            keep_last=config.checkpoint.keep_last,
            keep_best=None if best is None else (best, "max"),
        )
        # Twice: should the newest be torn, by a disk that failed, the one before still serves.
        self._states = CheckpointRotation(self.path / "state", keep_last=2)

    def open(self, frames: int = 0) -> None:
        """Make the folder. Until then nothing is written, so that a run that cannot start leaves nothing behind.

        Args:
            frames: that the run has learnt from: other loggers go on there.
        """
        self.logger = open_logger(self.config, self.path, frames)
        self.path.mkdir(parents=True, exist_ok=True)
        self._take()
        with _replaced(self.path / "config.yaml") as file:
            OmegaConf.save(self.config, file)

    def log(self, name: str, row: dict[str, float]) -> None:
        """Append a row to ``name``.csv; its ``frames`` is the step in other loggers.

        The first row sets the columns, so that a run that dies leaves a readable file.

        Raises:
            CheckpointError: if it cannot be written.
        """
        columns = self._columns.setdefault(name, list(row))
        new = not (path := self.path / f"{name}.csv").exists()
        with self._room_for(path.name), path.open("a", newline="") as file:
            # A run that was begun by an older version keeps the columns that it has.
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow(row)
        if self.logger is not None:
            for key, value in row.items():
                if key != "frames":
                    self.logger.log_scalar(f"{name}/{key}", value, step=int(row["frames"]))

    def save_networks(self, networks: dict[str, nn.Module], metrics: dict[str, float]) -> Path:
        """Write what was evaluated, atomically; the oldest goes, unless it is the best.

        Raises:
            CheckpointError: if it cannot be written; the others are untouched.
        """
        metadata = {**metrics, "format": FORMAT, "version": __version__}
        with self._room_for("The checkpoint"):
            checkpoint = Checkpoint(format="archive", **networks)
            return self._networks.save(checkpoint, step=int(metrics["frames"]), metadata=metadata)

    def save_state(self, state: RunState) -> None:
        """Write the whole state, atomically; the last but one goes.

        Raises:
            CheckpointError: if it cannot be written; the last one is untouched.
        """
        metadata = {"frames": state.frames, "format": FORMAT, "version": __version__}
        with self._room_for("The state"):
            for name in LOGS:  # should the power fail, a state must not know of rows that the disk does not
                if (path := self.path / f"{name}.csv").exists():
                    with path.open() as file:
                        os.fsync(file.fileno())
            self._states.save(state.checkpoint(), step=state.frames, metadata=metadata)
        self._networks.pin()

    @contextmanager
    def _room_for(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # torch's, for a file that cannot grow
            raise CheckpointError(
                f"{what} could not be written to {self.path} ({error}): if the disk is full, make room, or raise "
                f"checkpoint.every. {self.how_to_resume()}"
            ) from error

    def save_failure(self, error: NonFinite, networks: dict[str, nn.Module]) -> str:
        """Write the batch that made a run fail, and the networks as they were before it; says where they are."""
        folder = self.path / "failure"
        shutil.rmtree(folder, ignore_errors=True)
        error.batch.detach().cpu().save(folder / "batch")
        Checkpoint(format="archive", **networks).save(folder / "networks.torchrl", metadata={"error": str(error)})
        return f"The batch is in {folder / 'batch'} (TensorDict.load_memmap), the networks before it beside it."

    def find_state(self) -> int:
        """Look for the newest state that is whole, if the run is to be resumed; its frames, 0 if there was none yet.

        Raises:
            CheckpointError: if it was written in another format, or the run is so far that it must have had one.
            FileExistsError: if another process is at work on the run.
        """
        if not self.resume:
            return 0
        self._take()
        for folder in ("checkpoints", "state"):
            for partial in (self.path / folder).glob(".*"):  # of a process that was killed while it wrote
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        states = sorted((self.path / "state").glob("checkpoint-*.torchrl"), reverse=True)
        for path in states:
            try:
                refuse_pickles(path)
                metadata = Checkpoint.manifest(path)["metadata"]
            except (OSError, ValueError, KeyError, CheckpointError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path} was refused, and an older state is looked for: {error}", stacklevel=2)
                continue
            check_format(path, metadata)
            self._state = path
            return int(metadata["frames"])
        rows = read_rows(self.path / "metrics.csv")
        logged = int(rows[-1]["frames"]) if rows else 0
        if states or logged >= self.config.checkpoint.every + self.config.collector.frames_per_batch:
            raise CheckpointError(
                f"{self.path} has {logged} frames, but no whole state to go on with in {self.path / 'state'}; nothing "
                "was changed. Begin another run."
            )
        return 0

    def load_state(self, state: RunState) -> None:
        """Load what `find_state` found, if anything, and take back what was logged and judged after it.

        Raises:
            CheckpointError: if it does not fit the configuration, or rows that were logged before it are gone.
        """
        if self._state is not None:
            rows = read_rows(self.path / "metrics.csv")
            frames = {int(row["frames"]) for row in rows}
            begun = int(Checkpoint.manifest(self._state)["metadata"]["frames"])
            if begun not in frames:
                raise CheckpointError(f"{self.path / 'metrics.csv'} has lost its row of {begun} frames: put it back.")
            state.checkpoint().load(self._state)
        elif self.resume:
            self._set_aside()
        if self.resume:
            self._rewind(state.frames)

    def _set_aside(self) -> None:
        """Of a run that ended before its first state was saved: keep what it had learnt, since it begins anew."""
        networks = list((self.path / "checkpoints").glob("checkpoint-*.torchrl"))
        if not networks:
            return
        aside = self.path / "abandoned"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for path in networks:
            path.rename(aside / path.name)
        for name in LOGS:
            if (path := self.path / f"{name}.csv").exists():
                shutil.copy(path, aside)
        warnings.warn(
            f"{self.path} ended before its first state was saved (checkpoint.every = {self.config.checkpoint.every}), "
            f"so that it begins anew; its networks and tables lie in {aside}.",
            stacklevel=2,
        )

    def _rewind(self, frames: int) -> None:
        """Drop the rows of the CSV files, and the networks, that come after a number of frames."""
        for path in (self.path / "checkpoints").glob("checkpoint-*.torchrl"):
            if int(path.stem.rpartition("-")[2]) > frames:
                path.unlink()
        self._networks.pin()
        for name in LOGS:
            if not (path := self.path / f"{name}.csv").exists():
                continue
            rows = [row for row in read_rows(path) if int(row["frames"]) <= frames]
            if not rows:
                path.unlink()
                continue
            self._columns[name] = list(rows[0])
            with _replaced(path) as text, text.open("w", newline="") as file:
                writer = csv.DictWriter(file, self._columns[name])
                writer.writeheader()
                writer.writerows(rows)

    def _take(self) -> None:
        """Keep other processes from this run for as long as this one lives."""
        if self._lock is None:
            self._lock = os.open(self.path, os.O_RDONLY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FileExistsError(f"Another process is at work on {self.path}: wait for it, or end it.") from error

    def how_to_resume(self) -> str:
        """What to tell whoever stopped the run."""
        return f"Go on with: gaze-train resume={self.path}"

    def close(self) -> None:
        """Close the logger, and let others have the run."""
        close_logger(self.logger)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def complete(self) -> None:
        """Drop the state: there is nothing to go on with."""
        if (state := self.path / "state").exists():
            # At once, whatever comes in between: with half a state a run would be neither complete nor to be resumed.
            state = state.rename(self.path / ".state.done")
            shutil.rmtree(state, ignore_errors=True)
        self._networks.release()


def is_complete(path: Path) -> bool:
    """Whether the run in a folder has come to its end.

    Args:
        path: a run folder.
    """
    return not (path / "state").exists() and (path / "learning_curve.png").exists()


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of another as a whole, when it is done."""
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    os.replace(partial, path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Whole rows of a CSV file of a run; the last one may be torn. None of them if there is no file.

    Args:
        path: the file.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
