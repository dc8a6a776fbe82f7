"""Collectors in other processes: the same loop, rollouts of all, weights that follow, and deaths that are named."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gaze_torchrl.envs.wrapping import WorkerDied
from gaze_torchrl.training.agent import build_agent, build_env
from gaze_torchrl.training.collecting import build_collector, rollouts
from gaze_torchrl.training.config import compose_config
from gaze_torchrl.training.experiment import resume_run
from gaze_torchrl.training.explain import ConfigError
from gaze_torchrl.training.loop import build_learner
from tests.training.support import TINY, Stopped, stop_at, tiny_run

TWO = ["collector=process", "collector.frames_per_batch=128", "env.horizon=8"]
BACKENDS = ["process", pytest.param("ray", marks=pytest.mark.slow)]


def choice(backend):
    if backend == "ray":
        pytest.importorskip("ray")
    return [f"collector={backend}", *TWO[1:]]


def build(overrides, seed=0):
    torch.manual_seed(0)
    config = compose_config([*TINY, *overrides])
    env = build_env(config, 1, 0)
    learner = build_learner(config, build_agent(config, env), env)
    return learner, build_collector(config, learner.policy(), None, seed)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rollouts_of_all_processes_with_weights_that_follow(backend):
    learner, collector = build(choice(backend))
    batches = rollouts(collector, 8)
    first, spread = next(batches), []
    assert first.shape == (8, 16)
    ids = first["collector", "traj_ids"]
    assert len(ids[:, 0].unique()) == 8, "episodes of different processes have different numbers"
    assert len(ids.unique()) == 16, "and so have those of one lane"
    assert len(first["pixels"][:, 0].flatten(1).unique(dim=0)) == 8, "and are different"
    for value in (0.3, 0.7):
        with torch.no_grad():
            learner.agent.actor[1].module[0][-1].bias.fill_(value)
            learner.agent.actor[1].module[0][-1].weight.zero_()
        spread.append(next(batches)["loc"].unique().tolist())
    assert spread == [pytest.approx([0.3]), pytest.approx([0.7])]
    collector.shutdown()


def test_equal_seeds_equal_rollouts():
    found = []
    for seed in (1, 1, 2):
        _, collector = build(TWO, seed)
        batches = rollouts(collector, 8)
        found.append(torch.stack([next(batches).select("pixels", "action", ("next", "reward")) for _ in range(2)]))
        collector.shutdown()
    one, again, other = found
    assert (one == again).all()
    assert not (one == other).all()


# Both resume by the same code, and two more local clusters of Ray take minutes on two cores.
@pytest.mark.parametrize("backend", ["process", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.thorough])])
def test_trains_and_goes_on(backend, tmp_path, monkeypatch):
    """Episodes begin anew on resuming, with numbers that the bank does not hold yet."""
    folder = tmp_path / "run"
    overrides = [*choice(backend), "total_frames=512", "checkpoint.every=128", "evaluation.video_episodes=0"]
    with monkeypatch.context() as patch:
        stop_at(patch, 300)
        with pytest.raises(Stopped):
            tiny_run(folder, *overrides)
    seen = []
    update = build_learner.__globals__["PPO"].update
    monkeypatch.setattr(
        build_learner.__globals__["PPO"],
        "update",
        lambda self, rollout: seen.append(rollout["collector", "traj_ids"].clone()) or update(self, rollout),
    )
    resume_run(folder)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["frames"] for row in rows] == ["128", "256", "384", "512"]
    assert float(rows[-1]["triplet_valid"]) > 0
    assert seen[0].min() >= 16, "eight lanes, two episodes a rollout, two rollouts before"


def test_a_killed_process_is_named():
    _, collector = build(TWO)
    batches = rollouts(collector, 8)
    next(batches)
    os.kill(collector.procs[1].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"A collector's process has ended: worker 1 of 2, by SIGKILL"):
        next(batches)


def test_an_error_in_a_process_is_no_death(capfd):
    learner, collector = build(TWO)
    batches = rollouts(collector, 8)
    next(batches)
    with torch.no_grad():
        learner.agent.actor[1].module[0][-1].bias.fill_(torch.nan)
    with pytest.raises(
        RuntimeError, match=r"Worker \d of 2 of collector=process failed \(exit code 1\): its own error"
    ):
        next(batches)
    assert "actions must be numbers, got NaN" in capfd.readouterr().err


def processes():
    """Pid, command line and parent of all that run."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and (path / "cmdline").exists():
            status = (path / "stat").read_text().rpartition(")")[2].split()
            yield int(path.name), (path / "cmdline").read_bytes(), status[1]


# A killed process of collector=process is also named in small, above.
@pytest.mark.slow
@pytest.mark.parametrize("backend", [pytest.param("process", marks=pytest.mark.thorough), "ray"])
def test_a_killed_process_ends_the_run_with_an_error(backend, tmp_path):
    run = tmp_path / "run"
    options = [*TINY, *choice(backend), "total_frames=100_096", "checkpoint.every=128", f"run_dir={run}"]
    code = "import sys; from gaze_torchrl.cli import train; sys.argv[0] = 'gaze-train'; train()"
    process = subprocess.Popen([sys.executable, "-c", code, *options], stderr=subprocess.PIPE, text=True)
    while not any((run / "state").glob("checkpoint-*")):
        if process.poll() is not None:
            said = process.stderr.read()
            if "timed out after 60000ms" in said:
                pytest.skip("TorchRL gives Ray's collectors a minute to get weights; this machine took longer")
            pytest.fail(said)
        time.sleep(0.2)
    mark = {"process": b"multiprocessing.spawn", "ray": b"ray::Collector"}[backend]
    parents = {"process": str(process.pid), "ray": None}[backend]
    found = [pid for pid, command, parent in processes() if mark in command and parents in (parent, None)]
    assert len(found) == 2
    os.kill(found[0], signal.SIGKILL)
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 2, message
    assert "A collector's process has ended" in message
    assert f"Go on with: gaze-train resume={run}" in message


def test_lanes_that_cannot_be_shared_out():
    with pytest.raises(ConfigError, match=r"env\.num_envs = 8 must be a multiple of collector\.num_collectors = 3"):
        compose_config([*TINY, *TWO, "collector.num_collectors=3"])
