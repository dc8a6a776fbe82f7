"""One table of a report, and how its cells are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaze_torchrl.benchmark.statistics import Estimate
from gaze_torchrl.viewing.charts import number

__all__ = ["NONE", "Cell", "Table", "text"]

NONE = "-"
"""The cell of what is not known."""
Cell = str | Estimate
"""A text or an estimate."""


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
