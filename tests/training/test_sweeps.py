"""Sweeps by Hydra's launchers: several runs at once, each in a folder of its own."""

import csv

import pytest
from omegaconf import OmegaConf

from tests.training.support import TINY, command

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
}
BASIC = pytest.param("basic", marks=pytest.mark.thorough)  # Hydra's own: one after the other


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [BASIC, "joblib", "submitit"])
def test_two_seeds(launcher, tmp_path):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    options = [*LAUNCHERS[launcher], "hydra.sweep.dir=sweep", "evaluation.video_episodes=0", "seed=1,2"]
    swept = command("train", "--multirun", *TINY, *options, cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    runs = [tmp_path / "sweep" / name for name in ("0", "1")]
    for seed, run in enumerate(runs, start=1):
        assert f"seed: {seed}\n" in (run / "config.yaml").read_text()
        assert (run / "learning_curve.png").exists()
    numbers = [list(csv.DictReader((run / "metrics.csv").open())) for run in runs]
    assert len(numbers[0]) == len(numbers[1]) == 2
    assert numbers[0] != numbers[1]


@pytest.mark.slow
def test_optuna_maximizes_the_last_evaluation(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweeper = ["hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=2"]
    searched = ["hydra.sweeper.n_jobs=1", "loss.learning_rate=tag(log,interval(1e-4,1e-2))", "hydra.sweep.dir=sweep"]
    swept = command("train", "--multirun", *TINY, *sweeper, *searched, "evaluation.video_episodes=0", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    returns = [
        float(list(csv.DictReader((tmp_path / "sweep" / name / "evaluation.csv").open()))[-1]["return"])
        for name in ("0", "1")
    ]
    found = OmegaConf.load(tmp_path / "sweep" / "optimization_results.yaml")
    assert found.best_value == pytest.approx(max(returns))
    assert "loss.learning_rate" in found.best_params


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [BASIC, "joblib"])
def test_a_run_that_fails_says_why_and_the_others_go_on(launcher, tmp_path):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    options = [*LAUNCHERS[launcher], "hydra.sweep.dir=sweep", "evaluation.video_episodes=0", "total_frames=1,128"]
    swept = command("train", "--multirun", *TINY, *options, cwd=tmp_path)
    assert swept.returncode != 0
    assert swept.stderr.count("error: ") >= 1
    assert "total_frames" in swept.stderr.strip().splitlines()[-1]
    assert "Traceback" not in swept.stderr
    assert not (tmp_path / "sweep" / "0" / "config.yaml").exists()
    assert (tmp_path / "sweep" / "1" / "learning_curve.png").exists()
