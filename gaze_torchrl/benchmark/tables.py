"""The tables of a report. Every number in them is computed; docs/benchmark.md says how."""

from __future__ import annotations

import numpy as np

from gaze_torchrl.benchmark.comparisons import better, efficiency, reached
from gaze_torchrl.benchmark.results import Measured
from gaze_torchrl.benchmark.statistics import Estimate, estimate, iqm
from gaze_torchrl.benchmark.study import Study
from gaze_torchrl.benchmark.table import NONE, Cell, Table
from gaze_torchrl.viewing.charts import number

__all__ = ["cost_table", "gaze_table", "overall_table", "setting_table", "shift_tables"]

NEAR = 0.2  # of the target: about its radius and the agent's
EFFICIENCY = "times fewer frames than the baseline"


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
                NONE if level is None or not one.has(threshold) else reached(one, threshold, level),
                efficiency(base, one, threshold, given) if compared and base is not None else NONE,
                better([base], [one], score) if compared and base is not None else NONE,
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
                better([one for one in base if one is not None], mine, score) if compared else NONE,
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
    base = study.runs[setting].get(study.benchmark.baseline)
    # A baseline without a gaze attends to all alike.
    uniform = float(iqm(base.last("gaze_on_target"))) if base is not None and base.has("gaze_on_target") else 0.0
    for variant, one in study.runs[setting].items():
        cells = [_last(one, f"gaze_{name}") for name in ("distance", "on_target", "entropy", "drift")]
        if any(isinstance(cell, Estimate) for cell in cells):
            known = uniform > 0 and one.has("gaze_on_target")
            cells.insert(2, estimate(iqm, one.last("gaze_on_target") / uniform) if known else NONE)
            near = NONE
            if one.has("gaze_distance"):
                near = f"{(one.last('gaze_distance') < NEAR).sum()} of {len(one.seeds)}"
            rows.append([variant, *cells, near])
    columns = [
        "variant",
        "distance to the target",
        "share of attention on it",
        "times the baseline's",
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


def _lost(study: Study, trained: Measured, shifted: list[Measured]) -> Cell:
    """What the same seeds lose, on the mean over the conditions that apply to the task."""
    score = study.benchmark.score
    lost = [trained.last(score) - one.last(score) for one in shifted if one.has(score)]
    return estimate(iqm, np.mean(lost, 0)) if lost else NONE


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
