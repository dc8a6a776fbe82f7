"""What a folder of results holds, lined up for tables and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaze_torchrl.benchmark.results import METRICS, RESULTS, SHIFTS, Measured, measured, read_table
from gaze_torchrl.benchmark.spec import Benchmark, load_benchmark
from gaze_torchrl.training.explain import ConfigError

__all__ = ["Study", "read_study"]

Runs = dict[str, dict[str, Measured]]
"""What was measured, by setting and variant, in the benchmark's order."""


@dataclass(frozen=True)
class Study:
    """The results of a benchmark, complete or not.

    Args:
        benchmark: as it stands beside them.
        runs: what was measured, by setting and variant, in the benchmark's order.
        shifts: the same of the trained agents, by suite and condition.
        commits: of the code that made the runs.
        environments: what ``versions.json`` says; empty without one.
    """

    benchmark: Benchmark
    runs: Runs
    shifts: dict[str, dict[str, Runs]]
    commits: list[str]
    environments: list[dict[str, Any]]

    @property
    def variants(self) -> list[str]:
        """Those that were run anywhere."""
        return [one for one in self.benchmark.variants if any(one in runs for runs in self.runs.values())]

    @property
    def commands(self) -> list[str]:
        """What made the results, for a shell; where that was not written down, the command without overrides."""
        plain = f"gaze-bench run {self.benchmark.name}"
        return list(dict.fromkeys(one.get("command", plain) for one in self.environments)) or [plain]

    @property
    def everywhere(self) -> list[str]:
        """Those that were scored in every setting; only they can be compared over all."""
        score = self.benchmark.score
        return [
            one for one in self.variants if all(one in runs and runs[one].has(score) for runs in self.runs.values())
        ]

    @property
    def fewest(self) -> int:
        """The fewest seeds that a variant has in a setting."""
        return min(len(one.seeds) for _, _, one in self.each())

    def each(self) -> Iterator[tuple[str, str, Measured]]:
        """Every setting and variant, with what was measured."""
        for setting, runs in self.runs.items():
            for variant, one in runs.items():
                yield setting, variant, one

    @property
    def level(self) -> float | None:
        """The level whose frames are counted; None if the benchmark says the baseline's best."""
        return None if self.benchmark.threshold["level"] == "baseline" else float(self.benchmark.threshold["level"])


def read_study(folder: Path) -> Study:
    """Read the tables of a folder of results.

    Args:
        folder: with ``results.csv`` and ``benchmark.yaml``.

    Raises:
        FileNotFoundError: if one of them is missing, or there is no result.
        ConfigError: if a table is of another version, or names what the benchmark does not have.
    """
    rows = read_table(folder / "results.csv", RESULTS)
    if not rows or not (folder / "benchmark.yaml").exists():
        raise FileNotFoundError(
            f"{folder} holds no results: gaze-bench run NAME writes results.csv and benchmark.yaml."
        )
    benchmark = load_benchmark(folder / "benchmark.yaml")
    shifts = read_table(folder / "shifts.csv", SHIFTS)
    for row in [*rows, *shifts]:
        if row["setting"] not in benchmark.settings or row["variant"] not in benchmark.variants:
            raise ConfigError(
                f"{folder} holds results of {row['setting']}/{row['variant']}, which its benchmark.yaml does not name."
            )
    conditions: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in shifts:
        conditions.setdefault(row["suite"], {}).setdefault(row["condition"], []).append(row)
    versions = folder / "versions.json"
    return Study(
        benchmark,
        _lined_up(benchmark, rows, (*METRICS, "frames_per_second", "wall_seconds")),
        {
            suite: {condition: _lined_up(benchmark, its, METRICS) for condition, its in found.items()}
            for suite, found in conditions.items()
        },
        sorted({row["commit"] for row in rows}),
        json.loads(versions.read_text()) if versions.exists() else [],
    )


def _lined_up(benchmark: Benchmark, rows: list[dict[str, str]], columns: tuple[str, ...]) -> Runs:
    """By setting and variant, without those that have no rows."""
    by: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        by.setdefault((row["setting"], row["variant"]), []).append(row)
    found = {
        setting: {
            variant: measured(by[setting, variant], columns)
            for variant in benchmark.variants
            if (setting, variant) in by
        }
        for setting in benchmark.settings
    }
    return {setting: runs for setting, runs in found.items() if runs}
