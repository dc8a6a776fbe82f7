"""How one variant compares with another, and the tables of a report that say so."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gaze_torchrl.benchmark.results import Measured
from gaze_torchrl.benchmark.statistics import estimate, frames_to, improvement, iqm, sample_efficiency
from gaze_torchrl.benchmark.study import Study
from gaze_torchrl.benchmark.table import NONE, Cell, Table
from gaze_torchrl.viewing.charts import number, short

__all__ = ["better", "efficiency", "pair_table", "reach_table", "reached"]

SHARES = (0.5, 0.8)  # of the best that any variant reaches


def reach_table(study: Study, setting: str) -> Table | None:
    """How soon every variant gets to a half and to four fifths of the best return; None if nobody's best is positive.

    Args:
        study: the results.
        setting: a name.
    """
    runs, column = study.runs[setting], study.benchmark.threshold["metric"]
    best = _best(study, setting)
    if best is None:
        return None
    base = runs.get(study.benchmark.baseline)
    rows: list[list[Cell]] = []
    for variant, one in runs.items():
        row: list[Cell] = [variant]
        for share in SHARES:
            row.append(reached(one, column, share * best) if one.has(column) else NONE)
            row.append(NONE if base is None or one is base else efficiency(base, one, column, share * best))
        rows.append(row)
    columns = ["variant"]
    for share in SHARES:
        columns += [f"frames to {share:.0%}", f"{share:.0%}: times fewer than the baseline"]
    return Table(columns, rows, f"Best {column} of any variant: {number(best)}. How soon each comes to shares of it:")


def pair_table(study: Study, setting: str) -> Table | None:
    """The benchmark's ``pairs`` of variants, each the first against the second; None if none of them was run.

    Args:
        study: the results.
        setting: a name.
    """
    runs, benchmark = study.runs[setting], study.benchmark
    column, best = benchmark.threshold["metric"], _best(study, setting)
    rows: list[list[Cell]] = []
    for mine, other in benchmark.pairs:
        if mine not in runs or other not in runs:
            continue
        one, base = runs[mine], runs[other]
        levels = [None if best is None else share * best for share in SHARES]
        soon: list[Cell] = [NONE if level is None else efficiency(base, one, column, level) for level in levels]
        last = efficiency(base, one, column, study.level)
        rows.append([f"{mine} over {other}", *soon, last, better([base], [one], benchmark.score)])
    own = "the other's best" if study.level is None else "the level"
    columns = ["pair", *(f"times fewer frames to {share:.0%}" for share in SHARES), f"to {own}", "P(better)"]
    return Table(columns, rows) if rows else None


def reached(one: Measured, column: str, level: float) -> str:
    """Frames until more than half of the seeds had reached a level (the median of an odd number), and how many did.

    Args:
        one: what was measured.
        column: of it.
        level: to reach.
    """
    frames = frames_to(one.frames, one.values[column], np.full(len(one.seeds), level))
    middle, count = float(np.sort(frames)[len(frames) // 2]), f"({int(np.isfinite(frames).sum())} of {len(frames)})"
    return f"{short(middle)} {count}" if math.isfinite(middle) else f"> {short(one.frames[-1])} {count}"


def efficiency(base: Measured, one: Measured, column: str, level: float | None) -> Cell:
    """How many times fewer frames one takes than another; - if they were not evaluated after the same frames.

    Args:
        base, one: what was measured.
        column: of it.
        level: to reach; None for the best that the first reaches.
    """
    comparable = base.has(column) and one.has(column) and np.array_equal(base.frames, one.frames)
    return sample_efficiency(base.frames, base.values[column], one.values[column], level) if comparable else NONE


def better(base: list[Measured], mine: list[Measured], score: str) -> Cell:
    """Probability of improvement over others, averaged over settings.

    Args:
        base, mine: what was measured in each setting.
        score: the column.
    """
    if not all(one.has(score) for one in [*base, *mine]):
        return NONE
    return estimate(_mean_improvement(len(mine)), *(one.last(score) for one in [*mine, *base]))


def _mean_improvement(settings: int) -> Callable[..., NDArray[np.float64]]:
    def statistic(*strata: NDArray[np.float64]) -> NDArray[np.float64]:
        pairs = zip(strata[:settings], strata[settings:], strict=True)
        return np.mean([improvement(x, y) for x, y in pairs], 0)

    return statistic


def _best(study: Study, setting: str) -> float | None:
    """The best that the interquartile mean of any variant reaches; None if it is not positive: it has no half then."""
    column = study.benchmark.threshold["metric"]
    found = [float(iqm(one.values[column]).max()) for one in study.runs[setting].values() if one.has(column)]
    best = max(found, default=0.0)
    return best if best > 0 else None
