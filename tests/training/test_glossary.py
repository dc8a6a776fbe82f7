"""docs/outputs.md explains every number that any run logs, and none that no run does."""

import csv
import re
from pathlib import Path

import pytest

from tests.training.support import TINY_SAC, tiny_run

GLOSSARY = Path(__file__).parents[2] / "docs" / "outputs.md"
RUNS = {
    "ppo": ["regularizer=gaze", "regularizer.spread=0.1", "regularizer.drift=0.1", "regularizer.entropy=0.1"],
    "kl_ppo": ["loss=kl_ppo"],
    "a2c": ["loss=a2c"],
    "sac": ["loss=sac"],
    "redq": ["loss=sac", *TINY_SAC, "loss=redq"],
    "crossq": ["loss=sac", *TINY_SAC, "loss=crossq"],
    "curl": ["contrast=curl"],
    "info_nce": ["contrast=info_nce"],
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Every column of every file, by the run that has it."""
    columns = {}
    for name, overrides in RUNS.items():
        folder = tiny_run(tmp_path_factory.mktemp(name) / "run", *overrides, "evaluation.video_episodes=0")
        for path in folder.glob("*.csv"):
            with path.open(newline="") as file:
                columns.update(dict.fromkeys(next(csv.reader(file)), name))
    return columns


@pytest.fixture(scope="module")
def explained():
    text = GLOSSARY.read_text().partition("## Taking a policy")[0]  # a table of files, not of numbers
    table = [line for line in text.splitlines() if line.startswith("| `")]
    return {name for line in table for name in re.findall(r"`([\w./]+)`", line.split("|")[1])}


def test_every_number_is_explained(logged, explained):
    missing = {column: run for column, run in logged.items() if column not in explained}
    assert not missing


def test_nothing_else_is(logged, explained):
    files = {name for name in explained if name.endswith(("/", ".yaml", ".csv", ".png", ".gif", ".html"))}
    assert sorted(explained - set(logged) - files) == []
