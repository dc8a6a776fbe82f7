"""The documentation site: it builds without a warning, leaves nothing public out, and its examples run."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gaze_torchrl import registry
from gaze_torchrl.training.explain import config_dir

DOCS = Path(__file__).resolve().parents[1] / "docs"
EXTENDING = sorted(path for path in (DOCS / "extending").glob("*.md") if path.stem != "index")
# Runs the examples of pages, each page in names of its own.
RUN = """
import json, re, sys, traceback
failed = {}
for path in sys.argv[1:]:
    names = {"__name__": "example"}
    try:
        for block in re.findall(r"```python\\n(.*?)```", open(path).read(), re.S):
            exec(compile(block, path, "exec"), names)
    except Exception:
        failed[path] = traceback.format_exc()
print("FAILED", json.dumps(failed))
"""


def extension(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx_gallery")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "trees"]
    built = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    text = (tmp_path / "html" / "api" / "replay.html").read_text()
    assert "QuantileMiner" in text
    assert "<code" in (tmp_path / "html" / "configuration.html").read_text()


def test_an_undocumented_name_is_found(tmp_path, monkeypatch):
    api = extension("api")
    (tmp_path / "half_said.py").write_text(
        '"""A module."""\n__all__ = ["LIMIT", "BOUND", "said", "unsaid"]\n'
        'LIMIT = 3\n"""Of something."""\nBOUND = 4\n\n\n'
        'def said():\n    """Says."""\n\n\ndef unsaid():\n    pass\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert api.undocumented([importlib.import_module("half_said")]) == ["half_said.BOUND", "half_said.unsaid"]
    ours = [module for modules in api.public_modules().values() for module in modules]
    assert len(ours) > 80
    assert api.undocumented(ours) == []


def test_every_field_is_in_the_configuration_reference():
    page = extension("configuration").page()
    for path in config_dir().rglob("*.yaml"):
        for line in path.read_text().splitlines():
            assert line in page, f"{path}: {line}"


def test_every_kind_of_component_has_a_page():
    pages = {path.stem for path in EXTENDING}
    groups = {group.rpartition("/")[2] for group in registry.FACTS}
    assert groups <= pages
    assert set(re.findall(r"^(\w+)$", (DOCS / "extending" / "index.md").read_text(), re.M)) == pages


@pytest.mark.slow
def test_examples_run(tmp_path):
    for path in EXTENDING:
        assert "```python" in path.read_text()
        assert "assert" in path.read_text(), f"{path.name} shows nothing"
    # In a process of their own: what they register is nobody else's.
    run = subprocess.run(
        [sys.executable, "-c", RUN, *EXTENDING], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert run.stdout.strip().endswith("FAILED {}"), run.stdout + run.stderr
