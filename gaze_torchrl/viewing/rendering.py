"""Jinja templates: where they lie, and how they write numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from gaze_torchrl.viewing.charts import number

__all__ = ["template"]


def template(path: Path, filters: Mapping[str, Callable[..., str]]) -> jinja2.Template:
    """A template that may include those of ``viewing/templates``: page.css, page.js, chart.html.jinja.

    Args:
        path: the file.
        filters: of this template, by name, beside ``number`` and ``place``.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent / "templates"]),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "place": "{:.2f}".format, **filters}
    return environment.get_template(path.name)
