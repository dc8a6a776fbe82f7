"""The pages of the shipped results are what `gaze-bench report` makes of the tables beside them."""

import shutil
from pathlib import Path

import pytest

from gaze_torchrl.benchmark.report import write_report

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
HEADLINE = {"clutter_ppo"}
SHIPPED = [
    pytest.param(one, id=one.name, marks=() if one.name in HEADLINE else pytest.mark.thorough)
    for one in sorted(RESULTS.iterdir())
]


@pytest.mark.parametrize("shipped", SHIPPED)
def test_every_page_that_is_shipped_can_be_made_again(shipped, tmp_path):
    folder = shutil.copytree(shipped, tmp_path / shipped.name)
    write_report(folder)
    assert (folder / "report.md").read_text() == (shipped / "report.md").read_text()
