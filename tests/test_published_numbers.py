"""Intervals that README and results quote are those of the reports (those without sign and infinity, at least)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"(\d+(?:\.\d+)?)"
ESTIMATE = re.compile(rf"{NUMBER}\*{{0,2}} \[{NUMBER}, {NUMBER}\]")


def estimates(text: str) -> list[tuple[str, ...]]:
    return ESTIMATE.findall(text)


REPORTED = [
    tuple(map(float, one))
    for page in ROOT.glob("benchmarks/results/*/report.md")
    for one in estimates(page.read_text())
]


def is_reported(shown: tuple[str, ...]) -> bool:
    """Whether some report has these three numbers, rounded as they are shown."""
    # A number without decimals is as the report has it, others may be rounded.
    digits = [len(one.partition(".")[2]) for one in shown]
    finest = [0.5 * 10.0**-count + 1e-9 if count else 0.0 for count in digits]
    return any(
        all(abs(value - float(one)) <= error for value, one, error in zip(known, shown, finest, strict=True))
        for known in REPORTED
    )


@pytest.mark.parametrize(("name", "least"), [("README.md", 15), ("docs/results.md", 10)])
def test_every_estimate_stands_in_a_report(name, least):
    shown = estimates((ROOT / name).read_text())
    assert len(shown) >= least
    assert [one for one in shown if not is_reported(one)] == []


def test_what_stands_in_none_is_noticed():
    assert not is_reported(("0.88", "0.80", "0.94"))
