"""API pages, one per package, of every public name; a name without a docstring fails the build."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

import gaze_torchrl

TITLES = {
    "functional": "Functions",
    "modules": "Modules",
    "replay": "Replay: labels, miners, triplets",
    "objectives": "Objectives",
    "envs": "Environments",
    "training": "Training",
    "viewing": "Viewing",
    "export": "Export",
    "benchmark": "Benchmarks",
}


def public_modules() -> dict[str, list[ModuleType]]:
    """Modules with public names, by the subpackage that they belong to; "" for those of the package itself."""
    found = defaultdict(list)
    for info in pkgutil.walk_packages(gaze_torchrl.__path__, "gaze_torchrl."):
        if not info.ispkg and not info.name.rpartition(".")[2].startswith("_"):
            _, *between, _ = info.name.split(".")
            found["/".join(between[:1])].append(importlib.import_module(info.name))
    return found


def undocumented(modules: list[ModuleType]) -> list[str]:
    """Public names that say nothing of themselves.

    Args:
        modules: with an ``__all__``.
    """
    missing = []
    for module in modules:
        analyzer = ModuleAnalyzer.for_module(module.__name__)
        analyzer.analyze()
        for name in module.__all__:
            value = getattr(module, name)
            # A constant is documented by the string after it.
            own = value.__doc__ if inspect.isclass(value) or inspect.isroutine(value) else None
            if not own and ("", name) not in analyzer.attr_docs:
                missing.append(f"{module.__name__}.{name}")
    return missing


def write_pages(app: Sphinx) -> None:
    """Write docs/api; raise if a public name is undocumented."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    packages = public_modules()
    if missing := [name for modules in packages.values() for name in undocumented(modules)]:
        raise ExtensionError(f"Public names without a docstring: {missing}")
    for package, modules in packages.items():
        lines = [f"# {TITLES.get(package, 'The rest')}", ""]
        for module in modules:
            short = module.__name__.removeprefix("gaze_torchrl.")
            lines += [f"## {short}", "", "```{eval-rst}", f".. automodule:: {module.__name__}", "```", ""]
        (folder / f"{package or 'package'}.md").write_text("\n".join(lines))
    names = [*(name for name in TITLES if name in packages), "package"]
    index = ["# API", "", "```{toctree}", *names, "```", ""]
    (folder / "index.md").write_text("\n".join(index))


def escape_shapes(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Shapes such as [*, C, h, w] are no emphasis."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[number] = re.sub(r"\[[^][`]*\*[^][`]*\]", lambda found: found[0].replace("*", r"\*"), line)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_shapes, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
