"""The tables of a report. Every number in them is computed; docs/benchmark.md says how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gaze_torchrl.benchmark.results import Measured
from gaze_torchrl.benchmark.statistics import Estimate, estimate, frames_to, improvement, iqm, sample_efficiency
from gaze_torchrl.benchmark.study import Study
from gaze_torchrl.viewing.charts import number, short

__all__ = ["Table", "cost_table", "gaze_table", "overall_table", "setting_table", "shift_tables", "text"]

NEAR = 0.2  # of the target: about its radius and the agent's
NONE = "-"
EFFICIENCY = "times fewer frames than the baseline"
Cell = str | Estimate


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Args:
        columns: their titles; the first holds names.
        rows: cells, which are texts or estimates.
        note: what is to be known to read it, or "".
    """

    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def place(self, column: int, value: float) -> float:
        """Where a value lies between the ends of all intervals of its column, in percent.

        Args:
            column: its index.
            value: to place; what lies outside is moved to the end.
        """
        cells = [row[column] for row in self.rows]
        ends = [end for one in cells if isinstance(one, Estimate) for end in one[:3] if math.isfinite(end)]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        return 100 * (min(max(value, low), high) - low) / (high - low) if high > low else 50.0


def text(cell: Cell) -> str:
    """A cell as text: 0.98 [0.97, 1], or > 4.9 [3.1, ∞) for a bound; - for what is not known.

    Args:
        cell: of a table.

    Example:
        >>> text(Estimate(4.0, 2.0, math.inf, ">"))
        '> 4 [2, ∞)'
    """
    if isinstance(cell, str):
        return cell
    if math.isnan(cell.point):
        return NONE
    point = f"{cell.bound} {number(cell.point)}".strip()
    if math.isnan(cell.low):
        return point
    return f"{point} [{number(cell.low)}, " + ("∞)" if math.isinf(cell.high) else f"{number(cell.high)}]")


def setting_table(study: Study, setting: str) -> Table:
    """Final score, frames to the level and comparison with the baseline, for every variant in a setting.

    Args:
        study: the results.
        setting: a name.
    """
    runs, threshold, score = study.runs[setting], study.benchmark.threshold["metric"], study.benchmark.score
    base = runs.get(study.benchmark.baseline)
    level = given = study.level
    if level is None and base is not None and base.has(threshold):
        level = float(iqm(base.values[threshold]).max())
    shown = list(dict.fromkeys([score, threshold]))  # which may be one metric
    rows: list[list[Cell]] = []
    for variant, one in runs.items():
        compared = base is not None and one is not base
        rows.append(
            [
                variant,
                str(len(one.seeds)),
                *(_last(one, metric) for metric in shown),
                NONE if level is None or not one.has(threshold) else _frames_to(one, threshold, level),
                _efficiency(base, one, threshold, given) if compared and base is not None else NONE,
                _better([base], [one], score) if compared and base is not None else NONE,
            ]
        )
    named = f"the best {study.benchmark.baseline} reaches" if given is None else "as configured"
    frames = max(one.frames[-1] for one in runs.values())
    note = f"Last evaluation, after {number(frames)} frames."
    if level is not None:
        note += f" Level: {threshold} {number(level)}, {named}."
    columns = [
        *("variant", "seeds", *shown, "frames to the level", EFFICIENCY, "P(better than the baseline)"),
    ]
    return Table(columns, rows, note)


def overall_table(study: Study) -> Table:
    """Score and probability of improvement over all settings, for the variants that were run in each.

    Args:
        study: the results.
    """
    score = study.benchmark.score
    rows: list[list[Cell]] = []
    base = [runs.get(study.benchmark.baseline) for runs in study.runs.values()]
    for variant in study.everywhere:
        mine = [runs[variant] for runs in study.runs.values()]
        compared = variant != study.benchmark.baseline and study.benchmark.baseline in study.everywhere
        rows.append(
            [
                variant,
                str(sum(len(one.seeds) for one in mine)),
                estimate(iqm, *(one.last(score) for one in mine)),
                _better([one for one in base if one is not None], mine, score) if compared else NONE,
            ]
        )
    left = [variant for variant in study.variants if variant not in study.everywhere]
    note = f"Not yet run in every setting, and so left out: {', '.join(left)}." if left else ""
    return Table(["variant", "runs", score, "P(better than the baseline)"], rows, note)


def gaze_table(study: Study, setting: str) -> Table | None:
    """Where the gaze of every variant was in a setting; None if none was measured.

    Args:
        study: the results.
        setting: a name.
    """
    rows: list[list[Cell]] = []
    for variant, one in study.runs[setting].items():
        cells = [_last(one, f"gaze_{name}") for name in ("distance", "on_target", "entropy", "drift")]
        if any(isinstance(cell, Estimate) for cell in cells):
            near = NONE
            if one.has("gaze_distance"):
                near = f"{(one.last('gaze_distance') < NEAR).sum()} of {len(one.seeds)}"
            rows.append([variant, *cells, near])
    columns = [
        "variant",
        "distance to the target",
        "share of attention on it",
        "entropy",
        "drift",
        f"seeds within {NEAR}",
    ]
    return Table(columns, rows) if rows else None


def cost_table(study: Study, setting: str) -> Table | None:
    """What training took in a setting; None if it was not measured.

    Args:
        study: the results.
        setting: a name.
    """
    runs = {variant: one for variant, one in study.runs[setting].items() if one.has("wall_seconds")}
    speed = {variant: float(np.median(one.last("frames_per_second"))) for variant, one in runs.items()}
    base = speed.get(study.benchmark.baseline)
    rows: list[list[Cell]] = [
        [
            variant,
            number(speed[variant]),
            NONE if base is None else f"{speed[variant] / base:.2f}",
            _duration(float(np.median(one.last("wall_seconds")))),
        ]
        for variant, one in runs.items()
    ]
    columns = ["variant", "frames per second", "of the baseline's", "time of a run"]
    return Table(columns, rows) if rows else None


def shift_tables(study: Study, setting: str) -> dict[str, Table]:
    """By suite: the score as trained, and what is lost under each condition, for every variant in a setting.

    Args:
        study: the results.
        setting: a name.
    """
    tables = {}
    for suite, conditions in study.shifts.items():
        found = {condition: runs[setting] for condition, runs in conditions.items() if setting in runs}
        if not found:
            continue
        trained, *others = found.values()
        variants = [variant for variant in trained if trained[variant].has(study.benchmark.score)]
        rows: list[list[Cell]] = [
            [next(iter(found)), *(_last(trained[one], study.benchmark.score) for one in variants)]
        ]
        for condition in list(found)[1:]:
            lost = [_lost(study, trained[one], [found[condition][one]]) for one in variants]
            rows.append([f"lost: {condition}", *lost])
        if len(others) > 1:
            rows.append(
                ["lost: mean", *(_lost(study, trained[one], [runs[one] for runs in others]) for one in variants)]
            )
        tables[suite] = Table(["condition", *variants], rows)
    return tables


def _last(one: Measured, column: str) -> Cell:
    return estimate(iqm, one.last(column)) if one.has(column) else NONE


def _lost(study: Study, trained: Measured, shifted: list[Measured]) -> Estimate:
    """What the same seeds lose, on the mean over the conditions."""
    score = study.benchmark.score
    lost = np.mean([trained.last(score) - one.last(score) for one in shifted], 0)
    return estimate(iqm, lost)


def _frames_to(one: Measured, column: str, level: float) -> str:
    """Frames until more than half of the seeds had reached a level (the median of an odd number), and how many did."""
    frames = frames_to(one.frames, one.values[column], np.full(len(one.seeds), level))
    middle, count = float(np.sort(frames)[len(frames) // 2]), f"({int(np.isfinite(frames).sum())} of {len(frames)})"
    return f"{short(middle)} {count}" if math.isfinite(middle) else f"> {short(one.frames[-1])} {count}"


def _efficiency(base: Measured, one: Measured, column: str, level: float | None) -> Cell:
    comparable = base.has(column) and one.has(column) and np.array_equal(base.frames, one.frames)
    return sample_efficiency(base.frames, base.values[column], one.values[column], level) if comparable else NONE


def _better(base: list[Measured], mine: list[Measured], score: str) -> Cell:
    """Probability of improvement over the baseline, averaged over settings."""
    if not all(one.has(score) for one in [*base, *mine]):
        return NONE
    return estimate(_mean_improvement(len(mine)), *(one.last(score) for one in [*mine, *base]))


def _mean_improvement(settings: int) -> Callable[..., NDArray[np.float64]]:
    def statistic(*strata: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = zip(strata[:settings], strata[settings:], strict=True)
        return np.mean([improvement(x, y) for x, y in pairs], 0)

    return statistic


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
