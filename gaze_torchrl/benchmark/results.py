"""The tables of a benchmark: tidy CSV, a row for each evaluation of each run, and for each condition of a suite."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaze_torchrl.training.explain import ConfigError

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "RESULTS",
    "SHIFTS",
    "Measured",
    "measured",
    "read_table",
    "run_rows",
    "shift_rows",
    "write_table",
    "write_text",
]

METRICS = (
    "return", "length", "success_at_end", "success_once", "success_time",
    "gaze_distance", "gaze_on_target", "gaze_entropy", "gaze_drift",
)  # fmt: skip
"""Everything that an evaluation may measure; empty in the table where it does not."""

HIGHER_IS_BETTER = ("return", "success_at_end", "success_once", "success_time", "gaze_on_target")
"""Those by which variants can be ranked."""

_CELL = ("setting", "variant", "seed", "commit", "frames")
RESULTS = (*_CELL, *METRICS, "frames_per_second", "wall_seconds")
"""Columns of ``results.csv``."""
SHIFTS = (*_CELL, "suite", "condition", *METRICS)
"""Columns of ``shifts.csv``."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """What the seeds of a variant measured in one setting.

    Args:
        frames: of the evaluations [E].
        seeds: n of them, ascending.
        values: by column, evaluations by seeds [E, n]; NaN where nothing was measured.
    """

    frames: NDArray[np.float64]
    seeds: list[int]
    values: dict[str, NDArray[np.float64]]

    def last(self, column: str) -> NDArray[np.float64]:
        """The last evaluation of each seed [n].

        Args:
            column: of the table.
        """
        return self.values[column][-1]

    def has(self, column: str) -> bool:
        """Whether every evaluation of every seed measured it.

        Args:
            column: of the table.
        """
        return not bool(np.isnan(self.values[column]).any())


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table.

    Args:
        path: the CSV file; no rows if there is none.
        columns: which it must have.

    Raises:
        ConfigError: if it has others, as that of another version might.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        found = list(reader.fieldnames or ())
        if found != list(columns):
            raise ConfigError(
                f"{path} was written by another version: its columns lack {sorted(set(columns) - set(found))} and have "
                f"{sorted(set(found) - set(columns))} besides; expected {', '.join(columns)}. Nothing was mixed: "
                "choose another folder, results=..., or move the file away."
            )
        return list(reader)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a table in the place of what was there, as a whole.

    Args:
        path: the CSV file.
        columns: in this order.
        rows: one mapping each.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file in the place of what was there, as a whole: whoever is killed meanwhile leaves the old one.

    Args:
        path: the file; its folder is made if it is missing.
        text: all of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def run_rows(folder: Path, cell: Row) -> list[dict[str, str]]:
    """The evaluations of a run, with what training had taken until then.

    Args:
        folder: the run folder, of a complete run.
        cell: its setting, variant, seed and commit.

    Raises:
        ConfigError: if the run measured what the table has no column for.
    """
    evaluations, timings = _read(folder / "evaluation.csv"), _read(folder / "timings.csv")
    rows = []
    for evaluation in evaluations:
        _check_metrics(folder, set(evaluation) - {"frames"})
        frames = int(evaluation["frames"])
        spent = sum(float(row["collect"]) + float(row["update"]) for row in timings if int(row["frames"]) <= frames)
        took = {"frames_per_second": f"{frames / spent:.1f}", "wall_seconds": f"{spent:.1f}"}
        rows.append({**dict.fromkeys(RESULTS, ""), **cell, **evaluation, **took})
    return rows


def shift_rows(table: Path, cell: Row, suite: str) -> list[dict[str, str]]:
    """The conditions of a suite that an agent met.

    Args:
        table: ``suite.csv``, as gaze-eval writes it.
        cell: setting, variant, seed, commit and frames of the run.
        suite: its name.

    Raises:
        ConfigError: if it measured what the table has no column for.
    """
    rows = _read(table)
    for row in rows:
        _check_metrics(table, set(row) - {"condition"})
    return [{**dict.fromkeys(SHIFTS, ""), **cell, "suite": suite, **row} for row in rows]


def measured(rows: Iterable[Row], columns: Sequence[str]) -> Measured:
    """Line up the evaluations of several seeds.

    Args:
        rows: of one variant in one setting; at least one.
        columns: to take.

    Raises:
        ConfigError: if the seeds were not evaluated after the same frames.
    """
    at = {(int(row["frames"]), int(row["seed"])): row for row in rows}
    frames, seeds = (sorted({key[i] for key in at}) for i in (0, 1))
    if missing := [(frame, seed) for frame in frames for seed in seeds if (frame, seed) not in at]:
        one = next(iter(at.values()))
        raise ConfigError(
            f"{one['setting']}/{one['variant']}: seed {missing[0][1]} has no evaluation at {missing[0][0]} frames, as "
            "other seeds have: they were run differently and cannot be compared. Take the rows out of results.csv and "
            "run them again."
        )
    values = {
        column: np.array([[float(at[frame, seed][column] or "nan") for seed in seeds] for frame in frames])
        for column in columns
    }
    return Measured(np.array(frames, float), seeds, values)


def _check_metrics(path: Path, names: set[str]) -> None:
    if strangers := sorted(names - set(METRICS)):
        raise ConfigError(f"{path} measured {strangers}, for which results have no column; they have {METRICS}.")


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
