"""The pictures of a report: learning curves, final scores, sample efficiency, performance profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gaze_torchrl.benchmark.results import Measured
from gaze_torchrl.benchmark.statistics import Estimate, bootstrap, iqm, performance_profile
from gaze_torchrl.benchmark.study import Study
from gaze_torchrl.benchmark.tables import EFFICIENCY, overall_table, setting_table

__all__ = ["Curve", "curves", "draw_figures", "profiles"]

_MINE, _BASE, _OTHERS = "#3654c9", "#a1600a", "#c9ccd4"
_PER_ROW = 4


@dataclass(frozen=True)
class Curve:
    """A line and its 95 % band.

    Args:
        x: places [N].
        center, low, high: values [N]; the band of a single seed is NaN.
    """

    x: NDArray[np.float64]
    center: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curves(runs: Mapping[str, Measured], column: str) -> dict[str, Curve]:
    """Learning curves of the variants that measured something: interquartile means over the seeds.

    Args:
        runs: by variant.
        column: what was measured.
    """
    return {
        variant: _curve(one.frames, bootstrap(iqm, one.values[column]), len(one.seeds))
        for variant, one in runs.items()
        if one.has(column)
    }


def profiles(study: Study) -> dict[str, Curve]:
    """Performance profiles over all settings, of the variants that were run in each: shares of runs above a score.

    Args:
        study: the results.
    """
    score = study.benchmark.score
    last = {variant: [runs[variant].last(score) for runs in study.runs.values()] for variant in study.everywhere}
    every = [value for strata in last.values() for one in strata for value in one]
    # A share is shown whole; anything else as far as it goes.
    thresholds = np.linspace(min([0.0, *every]), max([1.0, *every]), 101)
    return {
        variant: _curve(
            thresholds,
            bootstrap(lambda *resampled: performance_profile(thresholds, *resampled), *strata),
            min(len(one) for one in strata),
        )
        for variant, strata in last.items()
    }


def draw_figures(study: Study, folder: Path) -> list[Path]:
    """Draw what a study holds.

    Args:
        study: the results.
        folder: gets ``curves-SETTING.png``, ``scores.png``, ``efficiency.png`` and ``profiles.png``.

    Returns:
        The pictures; without those for which nothing was measured.
    """
    score, baseline = study.benchmark.score, study.benchmark.baseline
    figures = {}
    for setting, runs in study.runs.items():
        drawn = {
            variant: Curve(one.x / 1000, one.center, one.low, one.high) for variant, one in curves(runs, score).items()
        }
        figures[f"curves-{setting}"] = _against(drawn, baseline, "thousand frames", f"{score}, {setting}")
    tables = {setting: setting_table(study, setting) for setting in study.runs}
    columns = {setting: {str(row[0]): row[2] for row in table.rows} for setting, table in tables.items()}
    if len(study.runs) > 1:
        columns["all settings"] = {str(row[0]): row[2] for row in overall_table(study).rows}
    figures["scores"] = _intervals(columns, score, None)
    ratios = {
        setting: {str(row[0]): row[table.columns.index(EFFICIENCY)] for row in table.rows}
        for setting, table in tables.items()
    }
    figures["efficiency"] = _intervals(ratios, f"times fewer frames than {baseline}", 1.0)
    figures["profiles"] = _against(profiles(study), baseline, score, "share of runs above")
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=110)
    return paths


def _curve(x: NDArray[np.float64], found: tuple[NDArray[np.float64], ...], seeds: int) -> Curve:
    center, low, high = found
    unknown = np.full_like(center, math.nan)
    return Curve(x, center, low, high) if seeds > 1 else Curve(x, center, unknown, unknown)


def _against(drawn: Mapping[str, Curve], baseline: str, x: str, y: str) -> Figure | None:
    """A panel for each variant, with the baseline beside it and all others faint behind it."""
    shown = [variant for variant in drawn if variant != baseline] or list(drawn)
    if not shown:
        return None
    across = min(_PER_ROW, len(shown))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(2.9 * across + 0.4, 2.4 * down + 0.3), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    handles = []
    for place, axes in enumerate(panels.flat):
        if place >= len(shown):
            axes.axis("off")
            continue
        for name, curve in drawn.items():
            if name not in (shown[place], baseline):
                axes.plot(curve.x, curve.center, color=_OTHERS, linewidth=0.8, zorder=1)
        if baseline in drawn:
            _draw(axes, drawn[baseline], _BASE, baseline)
            handles = axes.get_lines()[-1:]
        _draw(axes, drawn[shown[place]], _MINE, shown[place])
        axes.set_title(shown[place], fontsize=10)
        axes.grid(alpha=0.3)
    if handles and shown != [baseline]:
        panels[0, 0].legend(handles, [baseline], fontsize=8, frameon=False)
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure


def _draw(axes: Axes, curve: Curve, color: str, name: str) -> None:
    axes.plot(curve.x, curve.center, color=color, linewidth=1.8, label=name, zorder=3)
    axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.16, linewidth=0, zorder=2)


def _intervals(columns: Mapping[str, Mapping[str, object]], title: str, reference: float | None) -> Figure | None:
    """A column of dots with intervals for each setting; an arrow where an end is infinite or unknown."""
    estimates = {
        setting: {name: one for name, one in cells.items() if isinstance(one, Estimate) and not math.isnan(one.point)}
        for setting, cells in columns.items()
    }
    names = list(dict.fromkeys(name for cells in estimates.values() for name in cells))
    if not names:
        return None
    figure = Figure(figsize=(2.6 * len(estimates) + 1.6, 0.3 * len(names) + 1.1), layout="constrained")
    panels = figure.subplots(1, len(estimates), squeeze=False, sharey=True)[0]
    for axes, (setting, cells) in zip(panels, estimates.items(), strict=True):
        for name, one in cells.items():
            y = names.index(name)
            low, high = (one.point if math.isnan(end) else end for end in (one.low, one.high))
            right = max(high if math.isfinite(high) else one.point, one.point)
            axes.plot([low, right], [y, y], color=_MINE, linewidth=4, alpha=0.3, solid_capstyle="butt")
            axes.plot(one.point, y, marker={"": "o", ">": ">", "<": "<"}[one.bound], color=_MINE, markersize=6)
            if math.isinf(high):
                axes.annotate("∞", (right, y), (6, 0), textcoords="offset points", va="center", color=_MINE)
        if reference is not None:
            axes.axvline(reference, color=_BASE, linewidth=1)
        axes.set_title(setting, fontsize=10)
        axes.grid(alpha=0.3, axis="x")
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(title, fontsize=9)
    return figure
