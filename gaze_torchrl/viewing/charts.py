"""Small line charts: where every point, tick and label goes; the template only writes it down.

All places are percentages of the plot, from the left and from the top: lines are stretched to the room there is, and
the labels, which are HTML, stay as large as the text around them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

__all__ = ["Chart", "Distribution", "Tick", "chart", "distribution", "number", "short"]

_FEW = 30  # points that are marked one by one


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place, and what stands there."""

    place: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart of one or more series over the same steps.

    Args:
        title: what is drawn, in words.
        column: its name in the CSV file, or "".
        unit: of the x axis: frames or steps.
        x: of the points.
        series: values by label, as long as ``x``; NaN leaves a gap.
        paths: SVG path of each series.
        dots: SVG path of the points of the first series, where they are few.
        x_ticks, y_ticks: marks of the axes.
        domain: first and last x of the axis.
        reference: place of a horizontal line to compare with, and what it is; None for none.
        bands: SVG path around each series, or "".
    """

    title: str
    column: str
    unit: str
    x: list[float]
    series: dict[str, list[float]]
    paths: list[str]
    dots: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    domain: tuple[float, float]
    reference: Tick | None = None
    bands: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The last value of each series."""
        return " / ".join(number(values[-1]) for values in self.series.values() if values)

    @property
    def summary(self) -> str:
        """The chart in a sentence, for those who do not see it."""
        sentences = []
        for label, values in self.series.items():
            known = [value for value in values if math.isfinite(value)]
            name = f"{self.title}, {label}" if len(self.series) > 1 else self.title
            if not known:
                sentences.append(f"{name}: no value yet.")
                continue
            sentences.append(
                f"{name}: {len(known)} values from {number(known[0])} to {number(known[-1])}, between "
                f"{number(min(known))} and {number(max(known))}, until {number(self.x[-1])} {self.unit}."
            )
        return " ".join(sentences)

    @property
    def data(self) -> dict:
        """What the page's script needs to read values off the chart; None where there is none."""
        values = [[_rounded(one) for one in column] for column in self.series.values()]
        return {"x": [_rounded(one) for one in self.x], "y": values, "domain": self.domain, "unit": self.unit}


def chart(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    column: str = "",
    unit: str = "frames",
    until: float | None = None,
    limits: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
    marks: int = 4,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Chart:
    """Lay out a chart.

    Args:
        title, column, unit: as for `Chart`.
        x: of the points, ascending; the axis begins at 0, or at the first if that is negative.
        until: end of the x axis, at least; None for the last point's.
        series: values by label, each as long as ``x``; NaN leaves a gap.
        limits: of the y axis, at least; None for those of the values.
        reference: a value to compare with, and what it is.
        marks: intervals of the y axis, at most.
        bands: least and greatest values around a series, by label, each as long as ``x``; NaN leaves them out.
    """
    columns = {label: [float(value) for value in values] for label, values in series.items()}
    edges = {label: (bands or {}).get(label, ([], [])) for label in columns}
    drawn = [*columns.values(), *(side for sides in edges.values() for side in sides)]
    known = [value for values in drawn for value in values if math.isfinite(value)]
    start, end = min([0.0, *x]), max([*x, until or 0])
    end = end if end > start else start + 1
    x_marks = _marks(start, end, 3)
    # To the next round number if it is near, or else no further than needed.
    x_marks = x_marks if end >= 0.95 * x_marks[-1] else [*(mark for mark in x_marks if mark < end), end]
    y_marks = _marks(min([*known, *(limits or [])], default=0.0), max([*known, *(limits or [])], default=1.0), marks)

    def across(value: float) -> float:
        return 100 * (value - x_marks[0]) / (x_marks[-1] - x_marks[0])

    def down(value: float) -> float:
        return 100 * (y_marks[-1] - value) / (y_marks[-1] - y_marks[0])

    places = [[(across(a), down(b)) for a, b in zip(x, values, strict=True)] for values in columns.values()]
    around = [
        [(across(a), down(b)) for a, b in zip([*x, *reversed(x)], [*low, *reversed(high)], strict=True)] if low else []
        for low, high in ((list(one), list(other)) for one, other in edges.values())
    ]
    first = [point for point in next(iter(places)) if math.isfinite(point[1])]
    # The last label holds the unit, too, and leaves no room for others beside it.
    x_ticks = [Tick(across(mark), short(mark)) for mark in x_marks if across(mark) <= 60]
    x_ticks.append(Tick(100.0, f"{short(x_marks[-1])} {unit}"))
    return Chart(
        title=title,
        column=column,
        unit=unit,
        x=list(x),
        series=columns,
        paths=[_path(points) for points in places],
        dots="".join(f"M{a:.2f} {b:.2f}h0" for a, b in first) if len(first) <= _FEW else "",
        x_ticks=x_ticks,
        y_ticks=[Tick(down(mark), short(mark)) for mark in y_marks],
        domain=(x_marks[0], x_marks[-1]),
        reference=None if reference is None else Tick(down(reference[0]), reference[1]),
        bands=tuple(_area(points) for points in around),
    )


@dataclass(frozen=True)
class Distribution:
    """How values are distributed, as a strip of bars on which single ones can be marked.

    Args:
        path: SVG path of the bars, the fullest as tall as the plot.
        low, high: ends of the axis.
    """

    path: str
    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value lies, from the left."""
        return 100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def distribution(values: Sequence[float], bars: int = 40) -> Distribution:
    """Lay out the distribution of values.

    Args:
        values: any number of them.
        bars: how many intervals they are counted in.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, bars, (low, high))
    tall = 100 * counts / max(counts.max(), 1)
    bar = 80 / bars  # of each interval a fifth stays free
    path = "".join(f"M{100 * i / bars:.2f} 100v{-up:.1f}h{bar:.2f}v{up:.1f}z" for i, up in enumerate(tall) if up)
    return Distribution(path, low, high)


def number(value: float) -> str:
    """A value to three digits, without exponents for those that are easily read: 0.0123, 4.57, 39,936."""
    if not math.isfinite(value):
        return "no value"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def short(value: float) -> str:
    """A tick's label: 0.25, 500, 40k, 2M."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= 0.9995 * least:  # what rounds to it, too
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def _marks(low: float, high: float, count: int) -> list[float]:
    """Round numbers, some ``count`` of them, from at most ``low`` to at least ``high``."""
    if low == high:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return [float(mark) for mark in MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _path(points: list[tuple[float, float]]) -> str:
    """An SVG path that breaks where a value is missing; a point by itself becomes a dot."""
    parts, drawing = [], False
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{'L' if drawing else 'M'}{x:.2f} {y:.2f}" + ("" if drawing else "h0"))
        drawing = math.isfinite(y)
    return "".join(parts)


def _area(points: list[tuple[float, float]]) -> str:
    """An SVG path around an area, or none where a corner is missing."""
    whole = points and all(math.isfinite(y) for _, y in points)
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "z" if whole else ""


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
