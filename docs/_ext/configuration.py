"""The configuration reference: every group of configs/, with every choice and the comment of every field."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

from gaze_torchrl.training.explain import config_dir
from gaze_torchrl.training.listing import summary

ORDER = ["env", "task", "encoder", "gaze", "gaze/head", "readout", "labels", "normalize", "key", "miner", "contrast"]
ORDER += ["regularizer", "augment", "loss", "collector", "logger", "experiment", "benchmark"]


def page() -> str:
    """The reference as Markdown."""
    groups = {path.parent.relative_to(config_dir()).as_posix() for path in config_dir().rglob("*.yaml")} - {"."}
    lines = [
        "# Configuration",
        "",
        "What `gaze-train`, `gaze-eval` and `gaze-bench` read: `group=choice` takes a file, `group.field=value`",
        "changes one of its fields. `gaze-list` prints the same. This page is generated from the YAML files.",
        "",
    ]
    for title, name in (("The whole: train.yaml", "train"), ("A benchmark: bench.yaml", "bench")):
        lines += [f"## {title}", "", *_block(config_dir() / f"{name}.yaml")]
    for group in sorted(groups, key=lambda one: (ORDER.index(one) if one in ORDER else len(ORDER), one)):
        lines += [f"## {group}", ""]
        for path in sorted((config_dir() / group).glob("*.yaml")):
            lines += [f"### {group}={path.stem}", "", summary(path), "", *_block(path)]
    return "\n".join(lines)


def _block(path: Path) -> list[str]:
    return ["```yaml", *path.read_text().strip().splitlines(), "```", ""]


def write_page(app: Sphinx) -> None:
    """Write docs/configuration.md."""
    (Path(app.srcdir) / "configuration.md").write_text(page())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_page)
    return {"parallel_read_safe": True}
