"""What the documents say of the benchmarks is what the reports say."""

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
    finest = [0.5 * 10.0 ** -len(one.partition(".")[2]) + 1e-9 for one in shown]
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
