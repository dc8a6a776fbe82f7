"""The report of a benchmark: one page of Markdown, one of HTML, and figures, from its tables alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaze_torchrl import __version__
from gaze_torchrl.benchmark.comparisons import pair_table, reach_table
from gaze_torchrl.benchmark.figures import Curve, curves, draw_figures, profiles
from gaze_torchrl.benchmark.results import write_text
from gaze_torchrl.benchmark.study import Study, read_study
from gaze_torchrl.benchmark.table import text
from gaze_torchrl.benchmark.tables import cost_table, gaze_table, overall_table, setting_table, shift_tables
from gaze_torchrl.viewing.charts import Chart, chart
from gaze_torchrl.viewing.rendering import template

__all__ = ["write_report"]

FEW = 5  # seeds below which a report says that they are few


def write_report(folder: Path) -> list[Path]:
    """Write ``report.md``, ``report.html`` and figures beside the results they are made from.

    Args:
        folder: with ``results.csv`` and ``benchmark.yaml``, maybe ``shifts.csv`` and ``versions.json``.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: if it holds no results.
        ConfigError: if they are of another version, or do not belong together.
    """
    study = read_study(folder)
    pictures = draw_figures(study, folder)
    facts: dict[str, Any] = {
        "benchmark": study.benchmark,
        "study": study,
        "caution": _caution(study),
        "overall": overall_table(study) if len(study.runs) > 1 else None,
        "sections": [_section(study, setting) for setting in study.runs],
        "pictures": [path.name for path in pictures],
        "version": __version__,
    }
    written = []
    for name in ("report.md", "report.html"):
        page = template(Path(__file__).parent / "templates" / f"{name}.jinja", {"text": text})
        charts = {} if name == "report.md" else _charts(study)
        write_text(folder / name, page.render(facts, **charts))
        written.append(folder / name)
    return [*written, *pictures]


def _section(study: Study, setting: str) -> dict[str, Any]:
    return {
        "setting": setting,
        "beside": f"each variant beside {base}" if (base := study.benchmark.baseline) in study.runs[setting] else "",
        "scores": setting_table(study, setting),
        "reach": reach_table(study, setting),
        "pairs": pair_table(study, setting),
        "gaze": gaze_table(study, setting),
        "costs": cost_table(study, setting),
        "shifts": shift_tables(study, setting),
    }


def _caution(study: Study) -> str:
    """What the number of seeds allows to say."""
    fewest = study.fewest
    if fewest == 1:
        return (
            "A pilot: some variant has one seed. Nothing says how far another seed would be from it, and no two "
            "variants can be told apart by it."
        )
    if fewest < FEW:
        return (
            f"Few seeds: some variant has {fewest}. They show whether a variant works, not which of two close ones is "
            "better; bootstrap intervals of so few are too narrow."
        )
    return ""


def _charts(study: Study) -> dict[str, Any]:
    """Charts of the HTML page: each variant beside the baseline, by setting and metric."""
    metrics = dict.fromkeys([study.benchmark.score, study.benchmark.threshold["metric"], "gaze_distance"])
    base = study.benchmark.baseline
    drawn: dict[str, dict[str, list[Chart]]] = {}
    for setting, runs in study.runs.items():
        found = {metric: curves(runs, metric) for metric in metrics}
        drawn[setting] = {metric: _beside(its, base, "frames") for metric, its in found.items() if its}
    return {"charts": drawn, "profiles": _beside(profiles(study), base, "")}


def _beside(found: dict[str, Curve], baseline: str, unit: str) -> list[Chart]:
    shown = [variant for variant in found if variant != baseline] or list(found)
    return [_chart(variant, found[variant], {baseline: found.get(baseline)}, unit) for variant in shown]


def _chart(title: str, mine: Curve, others: dict[str, Curve | None], unit: str) -> Chart:
    # Variants of one setting are evaluated after the same frames; one that is not stands alone.
    alike = {name: one for name, one in others.items() if one is not None and list(one.x) == list(mine.x)}
    drawn = {"variant": mine, **({} if title in alike else alike)}
    return chart(
        title,
        mine.x.tolist(),
        {name: one.center.tolist() for name, one in drawn.items()},
        unit=unit,
        limits=(0, 0),
        bands={name: (one.low.tolist(), one.high.tolist()) for name, one in drawn.items()},
    )
