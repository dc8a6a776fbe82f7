"""Tables: tidy, written as a whole, never mixed with those of another version."""

import os

import numpy as np
import pytest

from gaze_torchrl.benchmark.results import METRICS, RESULTS, measured, read_table, run_rows, shift_rows, write_table
from gaze_torchrl.training.explain import ConfigError
from tests.training.support import tiny_run

CELL = {"setting": "easy", "variant": "full", "seed": "1", "commit": "abc"}


def row(frames, seed, value, **more):
    return {
        **dict.fromkeys(RESULTS, ""),
        **CELL,
        "frames": str(frames),
        "seed": str(seed),
        "return": str(value),
        **more,
    }


def test_what_is_written_is_read(tmp_path):
    rows = [row(10, 1, 0.5), row(20, 1, 0.1 + 0.2)]
    write_table(tmp_path / "new" / "results.csv", RESULTS, rows)
    assert read_table(tmp_path / "new" / "results.csv", RESULTS) == rows
    assert read_table(tmp_path / "none.csv", RESULTS) == []


def test_a_table_of_another_version_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    write_table(path, ["setting", "variant", "method"], [])
    with pytest.raises(
        ConfigError, match=r"results.csv was written by another version: its columns lack \['commit'.*\['method'\]"
    ):
        read_table(path, RESULTS)


def test_a_writer_that_dies_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_table(path, RESULTS, [row(10, 1, 0.5)])

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        write_table(path, RESULTS, [])
    assert len(read_table(path, RESULTS)) == 1


@pytest.mark.parametrize("overrides", [[], ["gaze=none", "contrast=none"]])
def test_every_number_of_a_run_has_a_column(tmp_path, overrides):
    run = tiny_run(tmp_path / "run", *overrides, "evaluation.video_episodes=0")
    rows = run_rows(run, CELL)
    assert [one["frames"] for one in rows] == ["128", "256"]
    with (run / "evaluation.csv").open() as file:
        header, first, _ = file.read().splitlines()
    for name, value in zip(header.split(","), first.split(","), strict=True):
        assert rows[0][name] == value
    assert set(header.split(",")) - {"frames"} <= set(METRICS)
    timings = np.loadtxt(run / "timings.csv", delimiter=",", skiprows=1)
    spent = timings[:, 1:].sum(1).cumsum()
    assert [float(one["wall_seconds"]) for one in rows] == pytest.approx(list(spent), abs=0.06)
    assert [float(one["frames_per_second"]) for one in rows] == pytest.approx(
        [128 / spent[0], 256 / spent[1]], rel=1e-2
    )


def test_a_number_without_a_column_is_not_dropped(tmp_path):
    (tmp_path / "evaluation.csv").write_text("frames,return,smile\n10,1,1\n")
    (tmp_path / "timings.csv").write_text("frames,collect,update\n10,1,1\n")
    with pytest.raises(ConfigError, match=r"measured \['smile'\]"):
        run_rows(tmp_path, CELL)
    (tmp_path / "suite.csv").write_text("condition,return,smile\nas trained,1,1\n")
    with pytest.raises(ConfigError, match=r"measured \['smile'\]"):
        shift_rows(tmp_path / "suite.csv", CELL, "clutter_levels")


def test_seeds_are_lined_up():
    rows = [row(20, 2, 4), row(10, 1, 1), row(20, 1, 2), row(10, 2, 3)]
    found = measured(rows, ["return", "gaze_distance"])
    assert found.seeds == [1, 2]
    assert found.frames.tolist() == [10, 20]
    assert found.values["return"].tolist() == [[1, 3], [2, 4]]
    assert found.last("return").tolist() == [2, 4]
    assert found.has("return")
    assert not found.has("gaze_distance")


def test_seeds_that_were_run_differently_are_named():
    with pytest.raises(ConfigError, match="easy/full: seed 2 has no evaluation at 20 frames"):
        measured([row(10, 1, 1), row(20, 1, 2), row(10, 2, 3)], ["return"])
