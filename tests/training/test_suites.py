"""Suites of conditions: what each changes, and the table that gaze-eval makes of them."""

import csv
import inspect

import pytest

from gaze_torchrl.cli import _table
from gaze_torchrl.envs import ClutterEnv
from gaze_torchrl.envs.wrapping import ShiftDoesNotApply
from gaze_torchrl.training import experiment
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import evaluate_run, evaluate_suite
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.suites import SUITES
from tests.training.support import command, tiny_run

ENVIRONMENTS = {"clutter_levels": [], "maniskill_shift": ["experiment=sac_maniskill"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("suite") / "run", "evaluation.video_episodes=0")


@pytest.mark.parametrize("suite", SUITES)
def test_conditions_are_different_configurations(suite):
    conditions = [compose_config([*ENVIRONMENTS[suite], *overrides]) for overrides in SUITES[suite].values()]
    assert not next(iter(SUITES[suite].values()))
    # A level that the run was trained at stands in the table twice.
    assert len({str(config.env) for config in conditions}) >= len(conditions) - 1


def test_table_has_a_row_per_condition_and_the_first_is_the_run_itself(run):
    folder, results = evaluate_suite(run, "clutter_levels")
    assert list(results) == list(SUITES["clutter_levels"])
    assert results["as trained"] == results["medium"]
    assert results["as trained"] != results["shift"]
    _, metrics = evaluate_run(run)
    assert {"frames": metrics.pop("frames"), **results["as trained"]} == {"frames": 256, **metrics}
    with (folder / "suite.csv").open(newline="") as file:
        rows = {row.pop("condition"): {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)}
    assert rows == results


def test_command_prints_the_table(run):
    child = command("evaluate", str(run), "suite=clutter_levels", "evaluation.episodes=2")
    assert child.returncode == 0, child.stderr
    assert "success_at_end" in child.stdout.splitlines()[0]
    assert child.stdout.count("\n") == 2 + len(SUITES["clutter_levels"])


def test_errors(run):
    with pytest.raises(ConfigError, match=r"suite must be one of \[.*'clutter_levels'.*\], got 'night'"):
        evaluate_suite(run, "night")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        evaluate_suite(run / "nothing", "clutter_levels")
    assert not list(run.glob("evaluation-*night*"))


def test_a_condition_that_does_not_apply_is_left_out(run, monkeypatch):
    build = ClutterEnv.__init__

    def refusing(self, level, **options):
        if level == "medium":
            raise ShiftDoesNotApply("there is no table")
        build(self, level, **options)

    refusing.__signature__ = inspect.signature(build)
    monkeypatch.setattr(ClutterEnv, "__init__", refusing)
    with pytest.warns(UserWarning, match="suite=clutter_levels without medium: there is no table"):
        folder, results = evaluate_suite(run, "clutter_levels", ["evaluation.episodes=2", "env.level=easy"])
    assert [name for name, metrics in results.items() if not metrics] == ["medium"]
    with (folder / "suite.csv").open(newline="") as file:
        rows = {row.pop("condition"): set(row.values()) for row in csv.DictReader(file)}
    assert [name for name, values in rows.items() if values == {""}] == ["medium"]
    (line,) = [line for line in _table(results).splitlines() if line.startswith("medium")]
    assert set(line.split()[1:]) == {"nan"}


def test_a_condition_that_fails_does_not_lose_those_before_it(run, monkeypatch):
    judge = experiment._judge

    def failing(config, *arguments):
        if config.env.level == "hard":
            raise RuntimeError("no more memory")
        return judge(config, *arguments)

    monkeypatch.setattr(experiment, "_judge", failing)
    with pytest.raises(RuntimeError, match="no more memory"):
        evaluate_suite(run, "clutter_levels", ["evaluation.episodes=3"])
    (table,) = run.glob("evaluation-*clutter_levels-evaluation.episodes=3/suite.csv")
    assert len(table.read_text().splitlines()) == 4, "the names, as trained, easy and medium"
