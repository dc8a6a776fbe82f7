"""Every public name documents its arguments, and every link in the documents leads somewhere."""

import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import gaze_torchrl
from gaze_torchrl.benchmark.grid import compose_benchmark
from gaze_torchrl.training.config import compose_config

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(gaze_torchrl.__path__, "gaze_torchrl.")
    if not module.ispkg
]
PUBLIC = [
    (f"{module.__name__}.{name}", getattr(module, name))
    for module in MODULES
    for name in getattr(module, "__all__", ())
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_module_says_what_it_is_and_what_is_public(module):
    assert module.__doc__
    assert module.__all__


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_public_callables_document_their_arguments(name, value):
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    assert value.__doc__, f"{name} has no docstring"
    if inspect.isfunction(value):
        arguments = [p for p in inspect.signature(value).parameters if p not in ("args", "kwargs")]
        missing = [p for p in arguments if not re.search(rf"\b{p}\b", value.__doc__)]
        documented = "Args:" in value.__doc__
        assert not (documented and missing), f"{name} leaves out {missing}"


GENERATED = ("configuration.md", "api/index.md")  # by `make docs`
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "extending").glob("*.md")]


@pytest.mark.parametrize("document", sorted(one for one in DOCUMENTS if one.name not in GENERATED), ids=str)
def test_links_and_commands_lead_somewhere(document):
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#:]+?)\)|src=\"([^\":]+)\"", text):
        path = link[0] or link[1]
        if path in GENERATED:
            continue
        assert (document.parent / path).exists(), f"{document.name} links to {path}"
    for script in re.findall(r"(?:benchmarks|tutorials|scripts)/\w+\.(?:py|sh)", text):
        assert (ROOT / script).exists(), f"{document.name} names {script}"


def commands():
    """Every command of the documents' code blocks that stands by itself: no run of the reader's, no sweep."""
    for document in DOCUMENTS:
        for block in re.findall(r"^```bash\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for tool in {"gaze-train", "gaze-bench"}.intersection(words):
                    arguments = words[words.index(tool) + 1 :]
                    arguments = arguments[: arguments.index("&&")] if "&&" in arguments else arguments
                    if not re.search(r"RUN|resume=|--multirun|gaze=stripe|searchpath", line):
                        yield pytest.param(tool, arguments, id=f"{document.name}: {tool} {' '.join(arguments)}")


@pytest.mark.parametrize(("tool", "arguments"), list(commands()))
def test_documented_commands_compose(tool, arguments):
    if tool == "gaze-train":
        compose_config(arguments)
    elif arguments[0] == "run":
        compose_benchmark(arguments[1], [one for one in arguments[2:] if "=" in one])
