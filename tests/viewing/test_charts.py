"""Charts: points, ticks and labels where they belong."""

import math
import re

import pytest

from gaze_torchrl.viewing.charts import chart, distribution, number, short
from gaze_torchrl.viewing.curves import curves, headlines


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.-]+)", path)]


def test_points_lie_where_the_axes_say():
    one = chart("Return", [10_000, 20_000, 40_000], {"": [-1.0, 0.0, 3.0]})
    assert one.domain == (0, 40_000)
    assert [(tick.place, tick.text) for tick in one.x_ticks] == [(0, "0"), (50, "20k"), (100, "40k frames")]
    bottom, top = float(one.y_ticks[0].text), float(one.y_ticks[-1].text)
    assert bottom <= -1
    assert top >= 3
    for (x, y), frames, value in zip(points(one.paths[0]), one.x, one.series[""], strict=True):
        assert x == pytest.approx(100 * frames / 40_000)
        assert y == pytest.approx(100 * (top - value) / (top - bottom), abs=0.01)
    assert one.last == "3"
    assert one.summary == "Return: 3 values from -1 to 3, between -1 and 3, until 40,000 frames."


def test_an_axis_ends_where_the_values_do_or_a_little_later():
    ends = {39_936: "40k frames", 1_600: "1600 frames", 49: "49 frames", 256: "256 frames"}
    for last, text in ends.items():
        assert chart("", [last], {"": [1.0]}).x_ticks[-1].text == text
    assert chart("", [0, 5], {"": [1.0, 1.0]}, until=19, unit="steps").x_ticks[-1].text == "20 steps"


def test_an_axis_begins_at_the_first_value_if_that_is_negative():
    one = chart("", [-10.0, -5.0, 0.0], {"": [1.0, 2.0, 3.0]}, unit="")
    assert one.domain == (-10, 0)
    assert [x for x, _ in points(one.paths[0])] == [0, 50, 100]


def test_a_missing_value_leaves_a_gap_and_a_lonely_one_a_dot():
    one = chart("", [0, 1, 2, 3, 4], {"": [1.0, 2.0, math.nan, 3.0, math.nan]})
    assert one.paths[0].count("M") == 2
    assert one.paths[0].count("L") == 1
    assert one.paths[0].endswith("h0"), "a dot"
    assert one.data["y"] == [[1.0, 2.0, None, 3.0, None]]
    assert chart("", [0], {"": [math.nan]}).summary == ": no value yet."
    assert chart("", [], {"": []}).paths == [""]


def test_limits_widen_and_nothing_is_flat():
    assert [tick.text for tick in chart("", [1, 2], {"": [0.2, 0.3]}, limits=(0, 1)).y_ticks][::4] == ["0", "1"]
    for value in (0.0, 7.0, -3.0):
        y = [place for _, place in points(chart("", [1, 2], {"": [value, value]}).paths[0])]
        assert all(0 < place < 100 for place in y)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.012345, "0.0123"),
        (4.5678, "4.57"),
        (39_936, "39,936"),
        (-0.5, "-0.5"),
        (999.7, "1,000"),
        (math.nan, "no value"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (500, "500"),
        (5_000, "5000"),
        (48_128, "48.1k"),
        (2e6, "2M"),
        (0, "0"),
        (999_936, "1M"),
        (999_400, "999k"),
    ],
)
def test_ticks(value, text):
    assert short(value) == text


def test_distribution_counts():
    strip = distribution([0.0, 0.0, 0.0, 10.0], bars=2)
    (tall, short_) = [float(height) for height in re.findall(r" 100v-([\d.]+)", strip.path)]
    assert tall == 100
    assert short_ == pytest.approx(100 / 3, abs=0.1)
    assert [strip.place(value) for value in (-1, 0, 5, 10, 99)] == [0, 0, 50, 100, 100]
    assert distribution([2.0, 2.0]).place(2.0) == 50
    assert distribution([]).path == ""


def test_a_row_that_is_being_written_waits(tmp_path):
    assert curves(tmp_path).rows == []
    (tmp_path / "evaluation.csv").write_text("frames,return,length\r\n100,1.5,20.0\r\n200,2.5,20.0\r\n300,0.")
    (tmp_path / "metrics.csv").write_text("frames,reward\r\n")
    drawn = curves(tmp_path)
    assert drawn.rows == [(100, 1.5, 20), (200, 2.5, 20)]
    assert [one.column for one in drawn.evaluation] == ["return"]
    assert [one.column for one in drawn.more_evaluation] == ["length"]
    assert drawn.frames == 0
    (headline,) = headlines(drawn.evaluations, gazes=True)
    assert (headline.value, headline.before) == ("2.5", "1.5 after 100 frames")
