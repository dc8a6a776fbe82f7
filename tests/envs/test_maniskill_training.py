"""The real thing, short: gaze-train on ManiSkill's RGB frames, with everything a run leaves behind."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import pytest

from gaze_torchrl.training.suites import SUITES
from tests.envs.maniskill_support import skip_without_maniskill
from tests.processes import children_with
from tests.training.support import command

skip_without_maniskill()
pytestmark = [pytest.mark.maniskill, pytest.mark.slow]


def test_missing_renderer_ends_with_one_message_and_leaves_nothing(tmp_path):
    environment = {**os.environ, "VK_ICD_FILENAMES": "/nowhere.json", "VK_DRIVER_FILES": "/nowhere.json"}
    failed = command("train", "env=maniskill", f"run_dir={tmp_path}/run", cwd=tmp_path, env=environment)
    assert failed.returncode == 2
    assert "install Mesa >= 24.3" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("experiment", [pytest.param("ppo_maniskill", marks=pytest.mark.thorough), "sac_maniskill"])
def test_presets_run_dry(experiment, tmp_path):
    done = command("train", f"experiment={experiment}", "dry_run=true", "threads=1", "run_dir=one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Dry run: every part works, with the others." in done.stdout
    assert not list(tmp_path.iterdir())


def test_trains_on_pushcube(tmp_path):
    trained = command(
        "train",
        "env=maniskill",
        "task=PushCube-v1",
        "total_frames=1200",
        "threads=1",
        "collector.frames_per_batch=400",
        "loss.minibatch=100",
        "loss.epochs=2",
        "bank.min_steps=400",
        "evaluation.every=1200",
        "evaluation.episodes=2",
        "evaluation.video_episodes=2",
        f"run_dir={tmp_path}/run",
    )
    assert trained.returncode == 0, trained.stderr
    run = tmp_path / "run"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frames"]) for row in rows] == [400, 800, 1200]
    assert all(math.isfinite(float(row[name])) for row in rows for name in row if name.startswith("loss_"))
    assert float(rows[-1]["triplet_valid"]) > 0
    assert len(list((run / "checkpoints").iterdir())) == 1
    video = iio.imread(run / "gaze.gif")
    assert video.shape[0] == 50
    left, right = video[:, :, : video.shape[2] // 4], video[:, :, video.shape[2] // 4 : video.shape[2] // 2]
    assert (left != right).any(), "the overlay shows"
    assert video.std() > 10, "the pictures are not blank"
    judged = command("evaluate", str(run), "evaluation.episodes=2", "evaluation.seed=5")
    assert judged.returncode == 0, judged.stderr
    assert '"success_once"' in judged.stdout
    viewed = command("view", str(run))
    assert viewed.returncode == 0, viewed.stderr
    page = Path(viewed.stdout.strip()).read_text()
    assert page.count('class="episode"') == 2
    assert page.count('class="triplet"') == 24
    assert "Gaze: attention on target" in page, "the truth is told"
    suite = command("evaluate", str(run), "suite=maniskill_shift", "evaluation.episodes=1", "env.horizon=2")
    assert suite.returncode == 0, suite.stderr
    with next(run.glob("evaluation-*maniskill_shift*/suite.csv")).open() as file:
        conditions = {row["condition"]: row for row in csv.DictReader(file)}
    assert list(conditions) == list(SUITES["maniskill_shift"])
    looks = {row["gaze_distance"] for row in conditions.values()}
    assert len(looks) > 15, "another look, another gaze"


@pytest.mark.thorough  # the views by themselves: test_maniskill_views.py; two processes: the next test
def test_trains_on_other_views_in_two_processes(tmp_path):
    """Depth, stacked and skipped frames, two cameras: the encoder takes the channels there are."""
    trained = command(
        "train",
        "env=maniskill",
        "task=StackCube-v1",
        "env.cameras=[base_camera,hand_camera]",
        "env.depth=1.5",
        "env.frame_stack=2",
        "env.frame_skip=5",
        "env.image_size=32",
        "env.num_envs=4",
        "env.num_workers=2",
        "total_frames=160",
        "threads=1",
        "collector.frames_per_batch=80",
        "loss.minibatch=40",
        "loss.epochs=1",
        "bank.min_steps=80",
        "evaluation.every=160",
        "evaluation.episodes=2",
        "evaluation.video_episodes=1",
        f"run_dir={tmp_path}/run",
    )
    assert trained.returncode == 0, trained.stderr
    video = iio.imread(tmp_path / "run" / "gaze.gif")
    assert video.shape[0] == 10, "fifty frames, five at a time"
    assert video.shape[2] > 3.9 * video.shape[1], "two pictures of two cameras each"


def test_a_killed_process_is_named_and_the_run_goes_on(tmp_path):
    run = tmp_path / "run"
    options = [
        *("env=maniskill", "env.num_envs=2", "env.num_workers=2", "env.image_size=32", "env.horizon=10"),
        *("total_frames=120", "threads=1", "collector.frames_per_batch=20", "loss.minibatch=10", "loss.epochs=1"),
        *("bank.min_steps=20", "evaluation.every=40", "evaluation.episodes=1", "evaluation.video_episodes=0"),
    ]
    code = "import sys; from gaze_torchrl.cli import train; sys.argv[0] = 'gaze-train'; train()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options, f"run_dir={run}"], stderr=subprocess.PIPE, text=True
    )
    while not (run / "state").exists() or not any((run / "state").glob("checkpoint-*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    simulating = children_with(process.pid, "spawn_main")
    os.kill(simulating[0], signal.SIGKILL)
    message = process.communicate()[1]
    assert process.returncode == 2
    assert f"(pid {simulating[0]}, scenes 0 to 0) was killed by SIGKILL" in message
    assert f"Go on with: gaze-train resume={run}" in message
    assert "Traceback" not in message
    resumed = command("train", f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    with (run / "metrics.csv").open() as file:
        assert [int(row["frames"]) for row in csv.DictReader(file)] == [20, 40, 60, 80, 100, 120]
