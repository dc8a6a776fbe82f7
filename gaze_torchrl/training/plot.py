"""The learning curve of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure

__all__ = ["plot_run"]

_PANELS = {
    "evaluation.csv": {"return": "return per episode", "success_at_end": "success at the end",
                       "gaze_distance": "gaze: distance to target"},
    "metrics.csv": {"loss_contrast": "contrastive loss"},
}  # fmt: skip


def plot_run(folder: Path) -> Path:
    """Draw what a run's CSV files hold: return, success, distance of the gaze to the target, contrastive loss.

    Args:
        folder: the run folder.

    Returns:
        The picture, ``learning_curve.png`` in the folder.
    """
    panels = []
    for name, titles in _PANELS.items():
        columns = read_columns(folder / name)
        panels += [(columns["frames"], columns[key], title) for key, title in titles.items() if key in columns]
    figure = Figure(figsize=(3.6 * len(panels), 3.0), layout="constrained")
    for axes, (frames, values, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.plot([frame / 1000 for frame in frames], values, color="tab:blue", linewidth=1.5)
        axes.set(title=title, xlabel="thousand frames")
        axes.grid(alpha=0.3)
        if title.startswith("success"):
            axes.set_ylim(-0.03, 1.03)
    path = folder / "learning_curve.png"
    figure.savefig(path, dpi=110)
    return path


def read_columns(path: Path) -> dict[str, list[float]]:
    """Columns of a CSV file of numbers; a last row that is still being written is left out."""
    text = path.read_text()
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else ())}
