"""Running a benchmark: one process per cell, some at a time; finished ones are kept, interrupted ones gone on with."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from tqdm import tqdm

from gaze_torchrl.benchmark.grid import cell_overrides, check_cells
from gaze_torchrl.benchmark.provenance import commit, record
from gaze_torchrl.benchmark.results import (
    RESULTS,
    SHIFTS,
    read_table,
    run_rows,
    shift_rows,
    write_table,
    write_text,
)
from gaze_torchrl.benchmark.spec import Benchmark, Cell, load_benchmark
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import run_config
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.run_folder import is_complete
from gaze_torchrl.training.suites import SUITES

__all__ = ["run_grid"]

# What gaze-train and gaze-eval are, wherever they are installed.
_TRAIN, _EVALUATE = (
    [sys.executable, "-c", f"from gaze_torchrl.cli import {name}; {name}()"] for name in ("train", "evaluate")
)


def run_grid(benchmark: Benchmark, cells: Sequence[Cell], jobs: int, command: str) -> dict[Cell, str]:
    """Run the cells that the results do not hold yet, and write down each one that is finished.

    Args:
        benchmark: to which they belong.
        cells: in the order in which they are begun.
        jobs: processes at the same time, > 0.
        command: what a shell runs it by, for the record.

    Returns:
        The cells that failed, and with what message; they did not stop the others.

    Raises:
        ConfigError: before the first run, if a configuration cannot be, older results or runs are of another benchmark,
            or another process is at it.
    """
    frames = check_cells(benchmark, cells)
    results = Path(benchmark.results)
    runs = Path(benchmark.runs)
    # The one of the results lies beside their folder, which is made when there is something to keep.
    with _alone(runs, runs / ".lock") as lock, _alone(results, results.parent / f".{results.name}.lock"):
        if (written := results / "benchmark.yaml").exists():
            benchmark = benchmark.joined(load_benchmark(written))
        finished = _cells(read_table(results / "results.csv", RESULTS))
        read_table(results / "shifts.csv", SHIFTS)
        missing = [cell for cell in cells if cell not in finished]
        for cell in missing:
            _check_begun(benchmark, cell)
        write_text(written, benchmark.yaml())
        if missing:
            record(results / "versions.json", command, jobs)
        return _Grid(benchmark, {cell: frames[cell] for cell in missing}, lock).run(jobs)


@dataclass
class _Running:
    """A process of a cell, and what it does."""

    cell: Cell
    command: list[str]
    process: subprocess.Popen


class _Grid:
    """The cells that are still to be run."""

    def __init__(self, benchmark: Benchmark, frames: dict[Cell, int], lock: int) -> None:
        self.benchmark, self.frames, self.lock = benchmark, frames, lock
        self.failures: dict[Cell, str] = {}
        self.said: dict[Cell, int] = {}  # length of the log when the cell's process began
        self.running: list[_Running] = []

    def run(self, jobs: int) -> dict[Cell, str]:
        waiting, done = deque(self.frames), {cell: self._frames_done(cell) for cell in self.frames}
        start = sum(done.values())
        with tqdm(
            total=sum(self.frames.values()), initial=start, unit="frame", unit_scale=True, dynamic_ncols=True
        ) as bar:
            try:
                while waiting or self.running:
                    while waiting and len(self.running) < jobs:
                        self._go_on(waiting.popleft(), bar)
                    bar.set_postfix_str(", ".join(str(one.cell) for one in self.running), refresh=False)
                    time.sleep(0.5)
                    done |= {one.cell: self._frames_done(one.cell) for one in self.running}
                    bar.update(sum(done.values()) - bar.n)
                    for one in [one for one in self.running if one.process.poll() is not None]:
                        self.running.remove(one)
                        self._ended(one, bar)
            finally:
                # A run that is ended at any moment goes on from its last state.
                for one in self.running:
                    one.process.terminate()
                for one in self.running:
                    one.process.wait()
        return self.failures

    def _go_on(self, cell: Cell, bar: tqdm, last: list[str] | None = None) -> None:
        """Begin the next process of a cell, or write down what came of it."""
        command = self._next(cell)
        if command is None:
            self._keep(cell, bar)
        elif command == last:
            self._fail(cell, "it ended without an error, and without a result", bar)
        else:
            folder = self.benchmark.folder(cell)
            folder.parent.mkdir(parents=True, exist_ok=True)
            if command[: len(_TRAIN)] == _TRAIN:  # a grid takes days, and another one may file the run
                folder.with_suffix(".commit").write_text(commit())
            with self._log(cell).open("ab") as log, _undisturbed():
                self.said[cell] = log.tell()
                # The lock goes along: a run whose gaze-bench was killed keeps others from its folder until it ends.
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=[self.lock]
                )
                self.running.append(_Running(cell, command, process))

    def _next(self, cell: Cell) -> list[str] | None:
        """What is still to be done for a cell, told from its folder; None when it is finished."""
        folder = self.benchmark.folder(cell)
        if not (folder / "config.yaml").exists():
            return [*_TRAIN, *cell_overrides(self.benchmark, cell), f"run_dir='{folder}'"]
        if not is_complete(folder):
            return [*_TRAIN, f"resume={folder}"]
        for suite in self.benchmark.suites:
            table = self._suite(cell, suite)
            if not table.exists() or len(table.read_text().splitlines()) <= len(SUITES[suite]):
                return [*_EVALUATE, str(folder), f"suite={suite}"]
        return None

    def _ended(self, one: _Running, bar: tqdm) -> None:
        if one.process.returncode == 0:
            self._go_on(one.cell, bar, one.command)
            return
        code, log = one.process.returncode, self._log(one.cell)
        said = log.read_bytes()[self.said[one.cell] :].decode(errors="replace")
        what = f"killed by signal {-code}" if code < 0 else last_word(said) or f"exit code {code}"
        self._fail(one.cell, f"{what} ({log})", bar)

    def _fail(self, cell: Cell, message: str, bar: tqdm) -> None:
        self.failures[cell] = message
        bar.write(f"{cell} failed: {message}", file=sys.stderr)

    def _keep(self, cell: Cell, bar: tqdm) -> None:
        """Write a finished cell into the tables."""
        noted = self.benchmark.folder(cell).with_suffix(".commit")
        made_by = noted.read_text() if noted.exists() else "unknown"
        key = {"setting": cell.setting, "variant": cell.variant, "seed": str(cell.seed), "commit": made_by}
        try:
            rows = run_rows(self.benchmark.folder(cell), key)
            key["frames"] = rows[-1]["frames"]
            shifts = [
                row for suite in self.benchmark.suites for row in shift_rows(self._suite(cell, suite), key, suite)
            ]
        except ConfigError as error:
            self._fail(cell, str(error), bar)
            return
        # The results last: a cell that they hold is finished.
        for name, columns, new in (("shifts.csv", SHIFTS, shifts), ("results.csv", RESULTS, rows)):
            if new:
                path = Path(self.benchmark.results) / name
                others = [row for row in read_table(path, columns) if _cell(row) != cell]
                write_table(path, columns, sorted([*others, *new], key=self._order))
        score = rows[-1][self.benchmark.score]
        bar.write(f"{cell}: {self.benchmark.score} {score or '-'}, {rows[-1]['frames_per_second']} frames per second")

    def _order(self, row: Mapping[str, str]) -> tuple[int, int, int, int]:
        """As the benchmark names them; sorting keeps the conditions of a suite in their order."""
        settings, variants = list(self.benchmark.settings), list(self.benchmark.variants)
        return settings.index(row["setting"]), variants.index(row["variant"]), int(row["seed"]), int(row["frames"])

    def _frames_done(self, cell: Cell) -> int:
        """Frames that a cell's run has learnt from."""
        path = self.benchmark.folder(cell) / "metrics.csv"
        lines = path.read_text().split("\n")[1:-1] if path.exists() else []
        return int(lines[-1].partition(",")[0]) if lines else 0

    def _suite(self, cell: Cell, suite: str) -> Path:
        return self.benchmark.folder(cell) / f"evaluation-{self.frames[cell]}-{suite}" / "suite.csv"

    def _log(self, cell: Cell) -> Path:
        return self.benchmark.folder(cell).with_suffix(".log")


def _check_begun(benchmark: Benchmark, cell: Cell) -> None:
    """Refuse to go on with a run that was begun with another configuration."""
    if not ((folder := benchmark.folder(cell)) / "config.yaml").exists():
        return
    begun, wanted = run_config(folder, []), compose_config(cell_overrides(benchmark, cell))
    flat = [_flat(OmegaConf.to_container(config)) for config in (begun, wanted)]
    if differing := sorted(
        key for key in flat[0] | flat[1] if flat[0].get(key) != flat[1].get(key) and key != "run_dir"
    ):
        raise ConfigError(
            f"{folder} was begun with another configuration: {differing[0]} was {flat[0].get(differing[0])}, now it is "
            f"{flat[1].get(differing[0])}. Move it away, or choose another folder, runs=..."
        )


def _flat(node: object, name: str = "") -> dict[str, object]:
    """The leaves of a configuration by their full key."""
    if not isinstance(node, dict):
        return {name: node}
    return {key: value for part in node for key, value in _flat(node[part], f"{name}.{part}".lstrip(".")).items()}


def _cell(row: dict[str, str]) -> Cell:
    return Cell(row["setting"], row["variant"], int(row["seed"]))


def _cells(rows: list[dict[str, str]]) -> set[Cell]:
    return {_cell(row) for row in rows}


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait that end a grid: between the start of a run and its entry one would leave the run behind.

    In the main thread only, as all that sets handlers.
    """
    came: list[int] = []
    handlers = {
        one: signal.signal(one, lambda number, _: came.append(number)) for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _alone(folder: Path, lock: Path) -> Iterator[int]:
    """Hold the lock of a folder of runs or of results; yields its file, which the runs inherit.

    Raises:
        ConfigError: if another process holds it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{folder} is in use by another gaze-bench, or by a run that one left behind when it was killed: wait "
                f"until it ends; `fuser -v {lock}` names it. Or choose another folder: runs=..., results=..."
            ) from error
        yield file.fileno()


def last_word(said: str) -> str:
    """Why a command failed, of what it said: the last line of a traceback, or else its own message.

    Example:
        >>> last_word("error: XDG_RUNTIME_DIR is not set\\nTraceback (most recent call last):\\n...\\nKeyError: 1")
        'KeyError: 1'
        >>> last_word("error: task=x was not found\\nmore")
        'task=x was not found'
    """
    lines = [line for line in said.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    # Libraries, too, say "error: ".
    raised = "Traceback (most recent call last):" in lines
    return (lines if raised or not own else own)[-1] if lines else ""
